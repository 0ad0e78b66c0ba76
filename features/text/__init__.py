"""Transcripts: normalization, tone marks and word segmentation."""
