"""Comparison of our BiLSTM with a packed `nn.LSTM`, for benchmark_heads.py."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from baseline import reference_lstm
from report import Figure
from timing import median_ratio
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from features.ragged import Ragged
from mervn.model.recurrent import BiLSTM


def measure_bilstm(batches: Sequence[Sequence[int]], rounds: int) -> list[Figure]:
    """Compare both on random input of width 256, forward and backward; `batches` are batches of sequence lengths."""
    torch.manual_seed(0)
    ours = BiLSTM(256, 128, 1)
    theirs = reference_lstm(ours)
    inputs = [Ragged.from_lengths(torch.randn(sum(lengths), 256), lengths) for lengths in batches]
    padded = [(x.pad(), torch.tensor(x.sizes)) for x in inputs]

    def packed(x: Tensor, lengths: Tensor) -> Tensor:
        sequence = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(theirs(sequence)[0], batch_first=True)[0]

    def run_ours() -> float:
        started = time.perf_counter()
        for x in inputs:
            ours.states(x.replace(x.values.detach().requires_grad_())).values.square().sum().backward()
        return time.perf_counter() - started

    def run_theirs() -> float:
        started = time.perf_counter()
        for x, lengths in padded:
            packed(x.detach().requires_grad_(), lengths).square().sum().backward()
        return time.perf_counter() - started

    speedup = median_ratio(run_theirs, run_ours, rounds)
    return [
        Figure("heads.pack_padded_over_ours", "packed nn.LSTM / our BiLSTM, seconds, fp32", speedup, 4.0, "higher"),
        Figure("heads.bilstm.error", "relative error against nn.LSTM", bilstm_error(inputs[0]), 1e-5, "lower"),
    ]


def bilstm_error(x: Ragged) -> float:
    """Return the maximum relative error of the outputs and gradients of our BiLSTM."""
    torch.manual_seed(0)
    ours = BiLSTM(256, 128, 1)
    theirs = reference_lstm(ours)
    packed_input, padded_input = x.values.clone().requires_grad_(), x.pad().requires_grad_()
    found = ours.states(x.replace(packed_input)).values
    packed = pack_padded_sequence(padded_input, torch.tensor(x.sizes), batch_first=True, enforce_sorted=False)
    expected = x.pack(pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]).values
    for output in (found, expected):
        output.square().mean().backward()
    pairs = [(found.detach(), expected.detach()), (packed_input.grad, x.pack(padded_input.grad).values)]
    for suffix, lstm in (("", ours.forwards[0]), ("_reverse", ours.backwards[0])):
        pairs += [(p.grad, getattr(theirs, name + suffix).grad) for name, p in lstm.named_parameters()]
    return max(relative(ours_tensor, reference) for ours_tensor, reference in pairs)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return |found - expected| / |expected|."""
    return float((found - expected).norm() / expected.norm())
