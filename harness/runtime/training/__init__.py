"""Training: rows into batches, losses, checkpoints, the trainer."""
