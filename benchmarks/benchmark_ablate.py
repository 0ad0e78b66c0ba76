"""Measure what a study costs beyond its trainings, and how much two processes gain.

    python benchmarks/benchmark_ablate.py [--tiny] [--json]

The study trains the heads of a grid on the label set `both` of `mervn demo`, with the example's
number of epochs. It is run as a user runs it: one command, start of Python, tables and report
included. `overhead` is its wall time times the number of jobs, divided by the sum of the training
times that the cells themselves record. `loop` compares it with the loop of `mervn train-head`
commands that a user would write instead; each of them uses all cores.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import click
from report import Figure, report

from mervn.demo import corpus
from mervn.demo.corpus import make_corpus

JOBS = 2
TEXT = {"text-encoder": "hashed_ngrams"}
BASE: dict[str, Any] = {"dim": 64, "dropout": 0.2}
FULL: dict[str, Any] = {
    "encoders": {"audio-encoder": "fourier2vec", **TEXT},
    "fusion": ("xattn", "late"), "pooling": ("attn", "mean"), "seeds": 2, "epochs": 50,
}  # fmt: skip
TINY: dict[str, Any] = {"encoders": TEXT, "fusion": ("text",), "pooling": ("mean",), "seeds": 2, "epochs": 1}
TINY_SPEAKERS = {split: names[:2] for split, names in corpus.SPEAKERS.items()}


def run_mervn(arguments: list[str]) -> None:
    """Run a command in a process of its own."""
    code = "from cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


def seconds_of(arguments: list[str]) -> float:
    """Return the wall time of a command."""
    started = time.perf_counter()
    run_mervn(arguments)
    return time.perf_counter() - started


def write_grid(path: Path, size: dict[str, Any]) -> None:
    """Write the GRID.toml of the study."""
    base = {**BASE, **size["encoders"], "epochs": size["epochs"], "patience": size["epochs"]}
    # the loop trains no baselines either
    lines = ['design = "grid"', "baselines = false", f"seeds = {size['seeds']}", "[base]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in base.items()]
    lines += ["[rows]", *(f"{axis} = {json.dumps(size[axis])}" for axis in ("fusion", "pooling"))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def time_study(data: Path, grid: Path, jobs: int) -> tuple[float, float]:
    """Return the wall time of a new study, and the sum of the training times of its cells."""
    output = grid.parent / f"study-{jobs}"
    shutil.rmtree(output, ignore_errors=True)
    wall = seconds_of(["ablate", str(grid), "--data", str(data), "--output", str(output), "--jobs", str(jobs)])
    records = [json.loads(path.read_text("utf-8")) for path in output.rglob("environment.json")]
    return wall, sum(record["seconds"] for record in records)


def time_loop(data: Path, output: Path, size: dict[str, Any]) -> float:
    """Return the wall time of one `mervn train-head` after the other."""
    common = ["train-head", "--data", str(data), "--no-report"]
    for name, value in {**BASE, **size["encoders"], "epochs": size["epochs"], "patience": size["epochs"]}.items():
        common += [f"--{name}", str(value)]
    seconds = 0.0
    for fusion in size["fusion"]:
        for pooling in size["pooling"]:
            for seed in range(size["seeds"]):
                one = ["--fusion", fusion, "--pooling", pooling, "--seed", str(seed)]
                seconds += seconds_of([*common, *one, "--output", str(output / f"{fusion}-{pooling}-{seed}")])
    return seconds


def measure(folder: Path, size: dict[str, Any]) -> list[Figure]:
    """Run the study with one job and with two, and the loop."""
    make_corpus(folder / "demo", 0)
    data, grid = folder / "demo" / "both", folder / "grid.toml"
    encoders = [f"--{option}={name}" for option, name in size["encoders"].items()]
    run_mervn(["extract", "--data", str(data), *encoders])
    write_grid(grid, size)
    one, _ = time_study(data, grid, 1)
    several, trained = time_study(data, grid, JOBS)
    loop = time_loop(data, folder / "loop", size)
    cells = len(size["fusion"]) * len(size["pooling"]) * size["seeds"]
    what = f"wall time x {JOBS} jobs / training time of {cells} cells"
    return [
        Figure("ablate.overhead", what, several * JOBS / trained, 1.15, "lower"),
        Figure("ablate.jobs", f"wall time with one job / with {JOBS}", one / several, 1.7, "higher"),
        Figure("ablate.loop", f"a loop of train-head / the study with {JOBS} jobs", loop / several, 1.5, "higher"),
        Figure("ablate.cell", "mean training time of a cell in seconds, two at once", trained / cells, None, "lower"),
    ]


def main_measure(tiny: bool) -> list[Figure]:
    """Measure in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        if tiny:
            templates = dict.fromkeys(corpus.TEMPLATES_PER_PASS, 2)
            with (
                mock.patch.dict(corpus.SPEAKERS, TINY_SPEAKERS),
                mock.patch.dict(corpus.TEMPLATES_PER_PASS, templates),
            ):
                return measure(Path(name), TINY)
        return measure(Path(name), FULL)


@click.command()
@click.option("--tiny", is_flag=True, help="Smoke test with few utterances.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document as the last line.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure and print."""
    report("ablate", main_measure(tiny), as_json)


if __name__ == "__main__":
    main()
