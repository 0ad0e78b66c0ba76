"""Extraction: plan, encode, share the work, commit to stores."""
