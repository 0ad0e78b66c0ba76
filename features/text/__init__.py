"""Transcripts: normalization, tone marks, word segmentation."""
