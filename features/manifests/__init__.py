"""Manifests and folds: which utterances there are, with their faults and labels."""
