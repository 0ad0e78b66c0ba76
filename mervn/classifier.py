"""The classifier: a multi-layer perceptron from the pooled vector to logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Classifier(nn.Module):
    """Hidden layers of the given widths, each with GELU and dropout, and a linear map to the C classes."""

    def __init__(self, dim: int, hidden: Sequence[int], num_classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for width in hidden:
            layers += [nn.Linear(dim, width), nn.GELU(), nn.Dropout(dropout)]
            dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(dim, num_classes))

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B, C) logits."""
        logits: Tensor = self.layers(pooled)
        return logits
