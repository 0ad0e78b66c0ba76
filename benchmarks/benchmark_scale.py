"""Measure how seconds, memory and open files grow from 50 000 to a million utterances.

    python benchmarks/benchmark_scale.py [--tiny] [--json]

An exponent is the slope of log seconds over log utterances: 1 is linear growth. The stores hold two
frames of 4 numbers per utterance, and need 2 GB of disk. An extraction claims, commits and releases
units of 128 utterances; its seconds are those of claims and looks at the store, without writing.
The store is then compacted to parts of 1024 utterances, and opened with its files in the page cache.
Nothing waits for the disk (fsync).
Memory is anonymous memory: in an epoch that reads audio and text from disk, without the manifest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from benchmark_store import run_python
from report import Figure, report
from scale_planning import measure_planning
from scale_segments import measure_segments
from scale_stores import measure_stores

SIZES = (50_000, 200_000, 1_000_000)
TINY_SIZES = (100, 200, 400)


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    sizes = TINY_SIZES if tiny else SIZES
    measures: list[Callable[[Path], list[Figure]]] = [
        lambda folder: measure_stores(sizes, folder, run_python),
        lambda folder: measure_planning(sizes, folder),
        lambda folder: measure_segments(folder, tiny),
    ]
    figures: list[Figure] = []
    for measure in measures:
        with tempfile.TemporaryDirectory() as folder:
            figures += measure(Path(folder))
    report("scale", figures, as_json)


if __name__ == "__main__":
    main()
