"""Recurrent fusion: per modality an optional CNN and a BiLSTM, then cross-attention blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.ragged import Ragged, concatenate
from mervn.model.cross_attention import CrossAttentionBlock

LOW_PRECISION_LSTM = ("cpu",)
"""Devices on which autocast runs an LSTM in the autocast dtype.

On a GPU, cuDNN casts LSTMs to fp16 even under bf16 autocast, and without loss scaling their
gradients can underflow. There, LSTMs run in fp32."""
MODALITIES = ("text", "audio")


class BiLSTM(nn.Module):
    """Bidirectional LSTM (Schuster and Paliwal 1997) over the real frames, with one or more layers.

    Each direction is a separate LSTM. The backward one reads every sequence reversed within its own
    length: then padding comes last in both directions and never affects a real frame. The result
    equals `nn.LSTM(bidirectional=True)` over `pack_padded_sequence`, which is slower.
    """

    def __init__(self, dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [dim] + [2 * hidden] * (layers - 1)
        # All forward layers first: the order decides the initial weights for a given seed.
        self.forwards = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.backwards = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for width in widths)
        self.out = nn.Linear(2 * hidden, dim)

    def forward(self, x: Ragged) -> Ragged:
        """Map (sum T, D) to (sum T, D)."""
        return x.replace(self.out(self.states(x).values))

    def states(self, x: Ragged) -> Ragged:
        """Return the hidden states (sum T, 2 hidden) of both directions in the last layer."""
        for forward_lstm, backward_lstm in zip(self.forwards, self.backwards, strict=True):
            ahead, back = _run_lstm(forward_lstm, x), _run_lstm(backward_lstm, x, backward=True)
            x = x.replace(torch.cat([ahead, back], dim=-1))
        return x


def _run_lstm(lstm: nn.Module, x: Ragged, backward: bool = False) -> Tensor:
    """Run an LSTM over padded sequences, or over each one in reverse; return its outputs (sum T, hidden)."""
    if not x.total:
        return x.values.new_zeros((0, lstm.hidden_size))  # type: ignore[arg-type]
    device = x.values.device.type
    if device in LOW_PRECISION_LSTM or not torch.is_autocast_enabled(device):
        return x.pack_time_major(lstm(x.pad_time_major(backward))[0], backward).values
    x = x.replace(x.values.to(lstm.weight_ih_l0.dtype))  # type: ignore[arg-type]
    with torch.autocast(device, enabled=False):
        return x.pack_time_major(lstm(x.pad_time_major(backward))[0], backward).values


class TemporalCNN(nn.Module):
    """Dilated 1-D convolutions over time, each with pre-norm, GELU and a residual connection.

    Padding is set to zero before every convolution, so a sequence's result does not depend on its
    batch.
    """

    def __init__(self, dim: int, layers: int, kernel: int, growth: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, found {kernel}")
        self.norms, self.convolutions = nn.ModuleList(), nn.ModuleList()
        for layer in range(layers):
            dilation = growth**layer
            padding = dilation * (kernel // 2)  # keeps the length
            self.norms.append(nn.LayerNorm(dim))
            self.convolutions.append(nn.Conv1d(dim, dim, kernel, dilation=dilation, padding=padding))

    def forward(self, x: Ragged) -> Ragged:
        """Map (sum T, D) to (sum T, D)."""
        if not x.total:
            return x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            convolved = _convolve(convolution, x.map(norm).pad(0.0))
            x = x.replace(x.values + functional.gelu(x.pack(convolved).values))
        return x


def _convolve(convolution: nn.Module, padded: Tensor) -> Tensor:
    """Apply a `nn.Conv1d` over time to (B, T, D).

    On a CPU it runs as a 2-D convolution over channels-last memory, which (B, T, D) is already: a
    1-D convolution would transpose its input and output.
    """
    if not isinstance(convolution, nn.Conv1d) or padded.device.type != "cpu":
        return convolution(padded.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
    padding, dilation = (0, int(convolution.padding[0])), (1, convolution.dilation[0])
    weight = convolution.weight[:, :, None]  # (D, D, 1, K)
    frames = padded.transpose(1, 2)[:, :, None]  # (B, D, 1, T)
    convolved = functional.conv2d(frames, weight, convolution.bias, 1, padding, dilation)
    return convolved[:, :, 0].transpose(1, 2)


class Gate(nn.Module):
    """Element-wise gate between two sequences: g x' + (1 - g) x with g = sigmoid(W [x; x'] + b)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim, dim)

    def forward(self, before: Ragged, after: Ragged) -> Ragged:
        """Map x (sum T, D) and x' (sum T, D) to (sum T, D)."""
        gate = torch.sigmoid(self.linear(torch.cat([before.values, after.values], dim=-1)))
        return before.replace(gate * after.values + (1 - gate) * before.values)


@dataclass(frozen=True)
class RecurrentSettings:
    """Settings of a recurrent fusion; with `cnn_layers` 0 there is no CNN."""

    rnn_layers: int
    rnn_hidden: int
    blocks: int
    merge: str
    cnn_layers: int = 0
    kernel: int = 3
    dilation_growth: int = 2


class RecurrentAttention(nn.Module):
    """Recurrent fusion: a BiLSTM per modality, then cross-attention blocks, F = [T'; A'].

    With `cnn_layers`, a TemporalCNN runs before each BiLSTM. The blocks are pre-norm. Both
    directions of a block read the output of the previous block. With `merge` set to "gate", a gate
    mixes the output of the last block with the input of the first, per modality. The keyword
    arguments are the fields of `RecurrentSettings`.
    """

    def __init__(self, dim: int, heads: int, dropout: float, **keywords: Any) -> None:
        super().__init__()
        settings = RecurrentSettings(**keywords)
        # The order of construction decides the initial weights for a given seed.
        self.convolutions = nn.ModuleDict()
        if settings.cnn_layers:
            for name in MODALITIES:
                self.convolutions[name] = TemporalCNN(
                    dim, settings.cnn_layers, settings.kernel, settings.dilation_growth
                )
        self.recurrent = nn.ModuleDict()
        for name in MODALITIES:
            self.recurrent[name] = BiLSTM(dim, settings.rnn_hidden, settings.rnn_layers)
        self.blocks = nn.ModuleList(_two_way_block(dim, heads, dropout) for _ in range(settings.blocks))
        self.gates = nn.ModuleDict()
        if settings.merge == "gate":
            for name in MODALITIES:
                self.gates[name] = Gate(dim)

    def forward(self, streams: dict[str, Ragged]) -> list[Ragged]:
        """Return [F], (sum (Tt + Ta), D)."""
        states = list(self._block_states(streams))
        (first_text, first_audio), (text, audio) = states[0], states[-1]
        if self.gates:
            text, audio = self.gates["text"](first_text, text), self.gates["audio"](first_audio, audio)
        return [concatenate(text, audio)]

    def _block_states(self, streams: dict[str, Ragged]) -> Iterator[tuple[Ragged, Ragged]]:
        """Yield text and audio before the first block and after every block."""
        text, audio = self._encode("text", streams["text"]), self._encode("audio", streams["audio"])
        yield text, audio
        for block in self.blocks:
            text, audio = block["text"](text, audio), block["audio"](audio, text)  # type: ignore[index]
            yield text, audio

    def _encode(self, name: str, x: Ragged) -> Ragged:
        """Run the CNN, if there is one, and the BiLSTM of a modality."""
        if self.convolutions:
            x = self.convolutions[name](x)
        encoded: Ragged = self.recurrent[name](x)
        return encoded

    def attention_weights(self, streams: dict[str, Ragged]) -> dict[str, list[Tensor]]:
        """Return the attention weights (H, Tq, Tk) of each utterance, by block and direction."""
        weights: dict[str, list[Tensor]] = {}
        # zip stops at the last block: no block reads the state after it.
        for number, (block, (text, audio)) in enumerate(zip(self.blocks, self._block_states(streams), strict=False)):
            to_audio, to_text = block["text"], block["audio"]  # type: ignore[index]
            weights[f"block_{number}.text_to_audio"] = to_audio.attention_weights(text, audio)
            weights[f"block_{number}.audio_to_text"] = to_text.attention_weights(audio, text)
        return weights


def _two_way_block(dim: int, heads: int, dropout: float) -> nn.ModuleDict:
    """Return one cross-attention block per direction, named by the modality of the queries."""
    return nn.ModuleDict({name: CrossAttentionBlock(dim, heads, dropout, True, True, True) for name in MODALITIES})
