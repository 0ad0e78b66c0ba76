"""Training: batches, optimizer, checkpoints, and what a run leaves."""
