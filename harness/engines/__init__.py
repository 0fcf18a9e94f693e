"""One file an engine: what harness.registry finds here are the built-in ones."""
