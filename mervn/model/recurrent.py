"""Recurrent fusions: a BiLSTM a modality, with or without a temporal CNN before it, then cross-attention blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.ragged import Ragged, concatenate
from mervn.model.cross_attention import CrossAttentionBlock

LOW_PRECISION_LSTM = ("cpu",)
"""Devices on which autocast runs an LSTM in the dtype it is asked for. On a GPU cuDNN's LSTMs are cast to fp16 also
under bf16 autocast, where no scaled loss keeps their gradients from underflow: they are run in fp32."""


class BiLSTM(nn.Module):
    """A bidirectional LSTM (Schuster and Paliwal 1997) over real frames alone, of any number of layers.

    Each direction is an LSTM of its own; the second reads every sequence reversed within its own length, so that
    padding comes last for both and is never seen. Equals `nn.LSTM(bidirectional=True)` over `pack_padded_sequence`.
    """

    def __init__(self, dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [dim] + [2 * hidden] * (layers - 1)
        self.forwards = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.backwards = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.out = nn.Linear(2 * hidden, dim)

    def forward(self, x: Ragged) -> Ragged:
        """(sum T, D) -> (sum T, D)."""
        return self.states(x).map(self.out)

    def states(self, x: Ragged) -> Ragged:
        """(sum T, D) -> (sum T, 2 hidden), the states of both directions in the last layer."""
        turned = reversal(x)
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            rows = [_run(ahead, x), _run(back, x.map(lambda values: values[turned]))[turned]]
            x = x.replace(torch.cat(rows, dim=-1))
        return x


def reversal(x: Ragged) -> Tensor:
    """Return the index (sum T,) that reverses each sequence within its own length; it is its own inverse."""
    last = x.offsets + x.lengths - 1  # (B,): the last frame of each sequence
    return last[x.segments] - x.positions


def _run(lstm: nn.Module, x: Ragged) -> Tensor:
    if not x.total:
        return x.values.new_zeros((0, lstm.hidden_size))  # type: ignore[arg-type]
    device = x.values.device.type
    if device in LOW_PRECISION_LSTM or not torch.is_autocast_enabled(device):
        return x.pack(lstm(x.pad())[0]).values
    with torch.autocast(device, enabled=False):
        return x.pack(lstm(x.map(lambda values: values.to(lstm.weight_ih_l0.dtype)).pad())[0]).values  # type: ignore[arg-type]


class TemporalCNN(nn.Module):
    """Dilated convolutions over time, each with a pre-norm, GELU and a residual; padding is zero before every one."""

    def __init__(self, dim: int, layers: int, kernel: int, growth: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, found {kernel}")
        dilations = [growth**layer for layer in range(layers)]
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in dilations)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, dilation=dilation, padding=dilation * (kernel // 2)) for dilation in dilations
        )

    def forward(self, x: Ragged) -> Ragged:
        """(sum T, D) -> (sum T, D)."""
        if not x.total:
            return x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            padded = x.map(norm).pad(0.0).transpose(1, 2)  # (B, D, T)
            x = x.replace(x.values + functional.gelu(x.pack(convolution(padded).transpose(1, 2)).values))
        return x


class Gate(nn.Module):
    """g x' + (1 - g) x with g = sigmoid(W [x; x'] + b), element by element."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim, dim)

    def forward(self, before: Ragged, after: Ragged) -> Ragged:
        """(sum T, D), (sum T, D) -> (sum T, D)."""
        share = torch.sigmoid(self.linear(torch.cat([before.values, after.values], dim=-1)))
        return before.replace(share * after.values + (1 - share) * before.values)


class RecurrentAttention(nn.Module):
    """For each modality [TemporalCNN and] BiLSTM, then pre-norm cross-attention blocks, F = [T'; A'].

    Both directions of a block read what the block before left. With `merge` gate each modality weighs what it has
    heard against what it was before the blocks. Without `cnn_layers` there is no CNN.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        rnn_layers: int,
        rnn_hidden: int,
        blocks: int,
        merge: str,
        cnn_layers: int = 0,
        kernel: int = 3,
        dilation_growth: int = 2,
    ) -> None:
        super().__init__()
        names = ("text", "audio")
        self.convolutions = nn.ModuleDict(
            {name: TemporalCNN(dim, cnn_layers, kernel, dilation_growth) for name in names} if cnn_layers else {}
        )
        self.recurrent = nn.ModuleDict({name: BiLSTM(dim, rnn_hidden, rnn_layers) for name in names})
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: CrossAttentionBlock(dim, heads, dropout, True, True, True) for name in names})
            for _ in range(blocks)
        )
        self.gates = nn.ModuleDict({name: Gate(dim) for name in names} if merge == "gate" else {})

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [F], (sum (Tt + Ta), D)."""
        levels = list(self._levels(streams))
        (first_text, first_audio), (text, audio) = levels[0], levels[-1]
        if self.gates:
            text, audio = self.gates["text"](first_text, text), self.gates["audio"](first_audio, audio)
        return [concatenate(text, audio)]

    def _levels(self, streams: dict[str, Ragged]) -> Iterator[tuple[Ragged, Ragged]]:
        """Yield text and audio before the first block and after each."""
        text, audio = (self._encode(name, streams[name]) for name in ("text", "audio"))
        yield text, audio
        for block in self.blocks:
            text, audio = block["text"](text, audio), block["audio"](audio, text)  # type: ignore[index]
            yield text, audio

    def _encode(self, name: str, x: Ragged) -> Ragged:
        if self.convolutions:
            x = self.convolutions[name](x)
        encoded: Ragged = self.recurrent[name](x)
        return encoded

    def attention_maps(self, streams: dict[str, Ragged]) -> dict[str, list[Tensor]]:
        """Return who attends to what, by block and direction the weights (H, Tq, Tk) of each utterance."""
        maps: dict[str, list[Tensor]] = {}
        for number, (block, (text, audio)) in enumerate(zip(self.blocks, self._levels(streams), strict=False)):
            maps[f"block_{number}.text_to_audio"] = block["text"].maps(text, audio)  # type: ignore[index]
            maps[f"block_{number}.audio_to_text"] = block["audio"].maps(audio, text)  # type: ignore[index]
        return maps
