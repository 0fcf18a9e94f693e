"""One file a kind of task: what of it is trained on, and how it is scored."""
