"""Manifests and cross-validation folds: the utterances of a corpus and their labels."""
