"""Audio files: segments, containers, resampling."""
