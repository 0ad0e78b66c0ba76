"""Splitting: speaker-disjoint train, valid and test from one manifest, or cross-validation folds."""
