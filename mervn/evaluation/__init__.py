"""Evaluation: predictions, metrics, intervals, comparison, layer probe, and the record of accesses to test."""
