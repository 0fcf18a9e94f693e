"""What crosses the edge of the program: files, paths, JSON and YAML, the terminal, locks, other processes."""
