"""What a model is trained on: splits of stored features or waveforms, labels, augmentation."""
