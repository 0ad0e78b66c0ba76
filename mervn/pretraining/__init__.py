"""Pretraining Fourier2Vec on masked frames."""
