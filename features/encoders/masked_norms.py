"""Norms over time that read no padding: the group norm and batch norm of the wav2vec 2.0 family."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.ragged import padding_mask


class MaskedGroupNorm(nn.Module):
    """Group norm, one channel per group, with statistics over the real frames only.

    `nn.GroupNorm` averages over the padded time axis, so that the features of an utterance would
    depend on its batch.
    """

    training_numerics: ClassVar[int] = 2
    """Raised when the last bits of its results change: see `mervn.training.checkpoint`."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.lengths: Tensor | None = None
        """(B,) number of real frames of the next input; the encoder sets it before each forward."""
        self.has_padding = True
        """False if no sequence of the next input has padding. The encoder sets it: to compare `lengths`, a GPU would
        make the host wait."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T) with the strides of x: on a CPU the next convolution copies any others."""
        if self.lengths is None:
            raise RuntimeError("lengths must be set before a masked group norm is used")
        # counts and sums can exceed fp16's maximum
        exact = torch.promote_types(x.dtype, torch.float32)
        count = self.lengths[:, None, None].to(exact)
        mean = self._without_padding(x).sum(2, keepdim=True, dtype=exact) / count
        centred = self._without_padding(x - mean)
        deviation = (centred.square().sum(2, keepdim=True) / count + self.eps).sqrt()
        normed = torch.addcmul(self.bias[:, None], centred, self.weight[:, None] / deviation)
        return normed.to(torch.promote_types(x.dtype, self.weight.dtype))

    def _without_padding(self, x: Tensor) -> Tensor:
        """Return x (B, C, T) with zeros as padding."""
        if not self.has_padding or self.lengths is None:
            return x
        # not masked_fill, whose result would be contiguous over time
        return torch.where(padding_mask(self.lengths, x.shape[2])[:, None], x, 0.0)


class MaskedBatchNorm(nn.Module):
    """Batch norm before the positional convolution, with running statistics and zeros as padding.

    Without the mask, the bias of the norm would turn zero padding into values that the convolution
    reads.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.lengths: Tensor | None = None
        """(B,) number of real frames of the next input; the encoder sets it before each forward."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, D, T)."""
        if self.lengths is None:
            raise RuntimeError("lengths must be set before a masked batch norm is used")
        normed = functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return normed.masked_fill(~padding_mask(self.lengths, x.shape[2])[:, None], 0.0)
