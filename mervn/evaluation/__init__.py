"""Evaluation: predictions, metrics, intervals, comparison, layer probe, record of looks at test."""
