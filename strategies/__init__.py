"""One file a method: what harness.registry finds here are the built-in strategies."""
