"""Audio files to waveforms: segments, containers, resampling."""
