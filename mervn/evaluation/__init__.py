"""Evaluation: predictions, metrics, layer probe, and the record of accesses to the test split."""
