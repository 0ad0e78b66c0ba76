"""Use of models on new data: predictions, transcripts by speech recognition, and bundles of trained models."""
