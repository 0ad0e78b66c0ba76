"""Use of models on new data: predictions, and transcripts by speech recognition."""
