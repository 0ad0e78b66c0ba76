"""Measure the report of a study with many settings: its size, and how long a browser takes to show it.

    python benchmarks/benchmark_report.py [--tiny] [--json]

Is the page of a study of 135 settings small enough to send, and does it open at once? The study is
synthetic: 9 fusions, 5 poolings and 3 losses, with 3 seeds each. The time is that of the `load` event in
headless Chromium, the median of 3 openings, without the start of the browser; it is left out if
there is no Chromium, and with --tiny.
"""

from __future__ import annotations

import csv
import itertools
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from report import Figure, report

from mervn.report.study_page import write_study_report

AXES = ("fusion", "pooling", "loss")
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
document.title = "loaded " + performance.getEntriesByType("navigation")[0].loadEventEnd; }, 0))</script></body>"""


def write_lines(path: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """Write a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def make_study(folder: Path, fusions: int) -> None:
    """Write table.csv, effects.csv and cells.csv of a study with 15 settings for each fusion."""
    rng = np.random.default_rng(0)
    names = [f"fusion_{number}" for number in range(fusions)]
    poolings, losses = ("cls", "mean", "max", "min", "attn"), ("ce", "focal", "label_smoothing")
    table, cells = [], []
    for number, values in enumerate(itertools.product(names, poolings, losses)):
        mean, axes = 0.4 + 0.3 * rng.random(), dict(zip(AXES, values, strict=True))
        scores = {
            "macro_f1_mean": mean,
            "macro_f1_std": 0.01,
            "macro_f1_low": mean - 0.05,
            "macro_f1_high": mean + 0.05,
        }
        of_reference = {"difference": mean - 0.5, "difference_low": mean - 0.56, "difference_high": mean - 0.44}
        of_reference |= {"p": 0.01, "p_holm": 0.2, "smallest_difference": 0.06}
        numbers = scores | (of_reference if number else dict.fromkeys(of_reference, ""))
        units = {"unit": "speaker_id", "groups": "30", "effective_groups": "27.1", "method": "jackknife, t(29)"}
        reference = {"tuned": "", "split": "test", "reference": str(number == 0).lower(), "seeds": "3"}
        table.append(axes | reference | units | {key: str(value) for key, value in numbers.items()})
        for seed in range(3):
            cell = {"status": "complete", "selected_epoch": "7", "valid_macro_f1": "0.5", "seconds": "3.2", "error": ""}
            cells.append(axes | cell | {"run": f"runs/{'-'.join(values)}/seed-{seed}"})
    write_lines(folder / "table.csv", table)
    write_lines(folder / "cells.csv", cells)
    effect = {"difference": "0.01", "difference_low": "-0.02", "difference_high": "0.04", "p_holm": "0.5"}
    effects = [{"axis": "fusion", "value": name, "macro_f1_mean": "0.5", **effect} for name in names]
    write_lines(folder / "effects.csv", effects)


def load_seconds(chromium: str, page: Path, folder: Path) -> float:
    """Return the time until the `load` event of a page in headless Chromium, in seconds."""
    probe = folder / "probe.html"
    probe.write_text(page.read_text("utf-8").replace("</body>", PROBE), "utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=5000"]
    command += [f"--user-data-dir={folder / 'profile'}", f"file://{probe}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>loaded ([\d.]+)</title>", done.stdout)
    if found is None:
        raise RuntimeError(f"{chromium} must open the page, but its load event did not come: {done.stderr[-300:]}")
    return float(found[1]) / 1000


@click.command()
@click.option("--tiny", is_flag=True, help="15 settings and no browser, for a test of this benchmark.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def main(tiny: bool, as_json: bool) -> None:
    """Measure the report of a study."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_study(folder, 1 if tiny else 9)
        started = time.perf_counter()
        page = write_study_report(folder)
        seconds = time.perf_counter() - started
        settings = "15 settings" if tiny else "135 settings"
        figures = [
            Figure(
                "report.megabytes",
                f"size of the page of a study of {settings}, MB",
                page.stat().st_size / 1e6,
                3.0,
                "lower",
            ),
            Figure("report.write_s", "seconds to write it, with the import of matplotlib", seconds, None, "lower"),
        ]
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is not None and not tiny:
            loads = [load_seconds(chromium, page, folder) for _ in range(3)]
            shown = "seconds until Chromium has loaded it"
            figures.append(Figure("report.load_s", shown, statistics.median(loads), 2.0, "lower"))
    report("report", figures, as_json)


if __name__ == "__main__":
    main()
