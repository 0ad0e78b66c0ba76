"""Training: batches, optimizer, checkpoints, and the files of a run."""
