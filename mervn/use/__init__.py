"""Use of models on new data: predictions, and bundles of trained models."""
