"""Training data: splits of stored features or waveforms, labels, augmentation."""
