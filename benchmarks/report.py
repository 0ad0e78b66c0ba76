"""Output of the benchmarks: a table on stderr and, with --json, one JSON document on stdout."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from features.environment import machine, package_versions
from features.progress import no_bar


@dataclass(frozen=True)
class Figure:
    """A measured figure; `better` is `lower` or `higher`, `goal` is None if the figure is only informative."""

    id: str
    what: str
    value: float
    goal: float | None
    better: str

    @property
    def met(self) -> bool | None:
        """Return whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


class MessagesOnly:
    """Reporter that prints messages on stderr and shows no progress bars."""

    def say(self, text: str) -> None:
        """Print one line at once."""
        print(text, file=sys.stderr, flush=True)

    def progress(self, total: int, done: int, what: str = "", unit: str = " utterances") -> Any:
        """Return a progress bar that is not shown."""
        return no_bar(total, done, what)

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Print nothing."""


def processor() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(benchmark: str, figures: list[Figure], as_json: bool) -> None:
    """Print the figures, with machine and versions in the JSON document."""
    for figure in figures:
        goal = f"goal {'<=' if figure.better == 'lower' else '>='} {figure.goal:g}" if figure.goal is not None else ""
        met = {True: "met", False: "MISSED", None: ""}[figure.met]
        print(f"{figure.id:<28} {figure.value:>10.4g}  {goal:<14} {met:<7} {figure.what}", file=sys.stderr)
    if as_json:
        about = {
            **machine(),
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "versions": package_versions(),
        }
        entries = [{**asdict(figure), "met": figure.met} for figure in figures]
        print(json.dumps({"benchmark": benchmark, "machine": about, "figures": entries}))
