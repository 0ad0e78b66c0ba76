"""Use of trained models: prediction for new audio and text."""
