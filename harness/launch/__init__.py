"""Outside the process of a run: starting it and following it."""
