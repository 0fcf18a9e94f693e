"""Documents, tables and drawings in a format, and text made harmless in each. Knows nothing of runs."""
