"""A base model: found, loaded, checked, counted, quantised."""
