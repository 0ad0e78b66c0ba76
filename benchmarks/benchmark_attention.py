"""Measure whether attention, which chooses by shape and dtype whose maps to absorb, chooses the faster way.

    python benchmarks/benchmark_attention.py [--tiny] [--json]

Forward and backward of one attention of width 256 and 4 heads, 16 utterances of equal lengths, both directions, the
plain way against the absorbed one. 1 is a choice that is always right.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from unittest import mock

import click
import torch
from report import Figure, report

from features.ragged import Ragged
from mervn.model.cross_attention import MultiheadAttention

DIM, HEADS, BATCH_SIZE = 256, 4, 16
LENGTHS = [(15, 150), (60, 300), (60, 750), (120, 750), (240, 750), (20, 40)]
"""Of text and audio, in tokens and frames."""


def measure(shapes: Sequence[tuple[int, int]], rounds: int) -> list[Figure]:
    """Compare the way that attention chose with the faster one, both directions, over batches of several shapes."""
    torch.manual_seed(0)
    attention = MultiheadAttention(DIM, HEADS, 0.0)
    figures = []
    for amp in ("fp32", "bf16"):
        losses = []
        for lengths in shapes:
            text, audio = (Ragged.from_lengths(torch.randn(BATCH_SIZE * n, DIM), [n] * BATCH_SIZE) for n in lengths)
            for queries, keys, absorbed in ((text, audio, "keys"), (audio, text, "queries")):
                with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
                    chosen = attention.way(queries, keys)
                    times = {name: seconds_of(attention, queries, keys, name, rounds) for name in ("none", absorbed)}
                losses.append(times[chosen] / min(times.values()))
        what = f"the chosen way's time over the faster one's, mean of {len(losses)} calls, {amp}"
        figures.append(Figure(f"attention.way.{amp}", what, statistics.mean(losses), None, "lower"))
    return figures


def seconds_of(attention: MultiheadAttention, queries: Ragged, keys: Ragged, name: str, rounds: int) -> float:
    """Return the median seconds of attention one way, forward and backward."""
    found = []
    for _ in range(rounds + 1):
        asked, told = (x.replace(x.values.detach().requires_grad_()) for x in (queries, keys))
        started = time.perf_counter()
        with mock.patch.object(MultiheadAttention, "way", return_value=name):
            rows = attention(asked, told).values
        rows.sum().backward()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])  # the first warms up


@click.command()
@click.option("--tiny", is_flag=True, help="One short shape: does it run?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("attention", measure(LENGTHS[:1], 1) if tiny else measure(LENGTHS, 3), as_json)


if __name__ == "__main__":
    main()
