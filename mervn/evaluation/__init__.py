"""Predictions, metrics and the record of looks at the test split."""
