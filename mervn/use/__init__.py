"""Use of models on new data: transcripts by speech recognition."""
