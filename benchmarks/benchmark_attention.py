"""Measure whether attention chooses the faster of plain and absorbed attention.

    python benchmarks/benchmark_attention.py [--tiny] [--json]

`MultiheadAttention` chooses by shape and dtype which side's projections to absorb. This measures
forward and backward of one attention of width 256 with 4 heads, for 16 utterances of equal length,
in both directions, plain and absorbed. The figure is the time of the chosen method divided by the
time of the faster one: 1 means that every choice is right.
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
"""Lengths of text and audio, in tokens and frames."""


def measure(shapes: Sequence[tuple[int, int]], rounds: int) -> list[Figure]:
    """Compare the chosen method with the faster one, over batches of several shapes."""
    torch.manual_seed(0)
    attention = MultiheadAttention(DIM, HEADS, 0.0)
    figures = []
    for amp in ("fp32", "bf16"):
        ratios = []
        for num_tokens, num_frames in shapes:
            text, audio = random_batch(num_tokens), random_batch(num_frames)
            for queries, keys, side in ((text, audio, "keys"), (audio, text, "queries")):
                with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
                    chosen = attention.absorbed_side(queries, keys)
                    times = {name: seconds_of(attention, queries, keys, name, rounds) for name in ("none", side)}
                ratios.append(times[chosen] / min(times.values()))
        what = f"time of the chosen method / time of the faster one, mean of {len(ratios)} calls, {amp}"
        figures.append(Figure(f"attention.way.{amp}", what, statistics.mean(ratios), None, "lower"))
    return figures


def random_batch(length: int) -> Ragged:
    """Return a batch of random sequences of one length."""
    return Ragged.from_lengths(torch.randn(BATCH_SIZE * length, DIM), [length] * BATCH_SIZE)


def seconds_of(attention: MultiheadAttention, queries: Ragged, keys: Ragged, side: str, rounds: int) -> float:
    """Return the median seconds of forward and backward with the projections of one side absorbed."""
    times = []
    for _ in range(rounds + 1):
        # Fresh leaves, so that gradients of the inputs are computed too.
        query_leaf = queries.replace(queries.values.detach().requires_grad_())
        key_leaf = keys.replace(keys.values.detach().requires_grad_())
        started = time.perf_counter()
        with mock.patch.object(MultiheadAttention, "absorbed_side", return_value=side):
            output = attention(query_leaf, key_leaf).values
        output.sum().backward()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])  # the first round is a warm-up


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with one short shape.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("attention", measure(LENGTHS[:1], 1) if tiny else measure(LENGTHS, 3), as_json)


if __name__ == "__main__":
    main()
