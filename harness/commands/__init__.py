"""One file a command: its options are in harness.cli."""
