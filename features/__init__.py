"""Feature extraction: manifests, audio, text, frozen encoders and the feature store."""
