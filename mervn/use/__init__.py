"""Use of models on new data: prediction, transcripts, and bundles of trained models."""
