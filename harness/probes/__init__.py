"""One file a probe: what harness.registry finds here are the built-in ones."""
