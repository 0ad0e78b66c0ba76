"""Corpora: each format is read into items, then written as manifests, folds and a list of faults."""
