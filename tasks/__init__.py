"""One file a task: what harness.registry finds here are the built-in tasks."""
