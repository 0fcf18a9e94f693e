"""What carries out the steps of training."""
