"""Audit of a corpus: faults and shortcuts in manifests and audio, before anything is trained."""
