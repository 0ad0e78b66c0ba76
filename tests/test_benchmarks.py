"""Every benchmark runs and prints its figures in the common format."""

import importlib
import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
from warm_process import WARM_SUBPROCESS, WarmProcess, run_warm

from cli.main import run

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("benchmark_*.py"))
SMALL = """
from features.encoders import fourier2vec
fourier2vec.DEFAULTS.update(dim=256, heads=4, num_layers=1)
"""
"""Code before that of a process: a fourier2vec of one block, whose features are as wide as its own. A full disk of a
benchmark has room for narrower ones."""


def start_training(arguments: list[str], _: Mapping[str, str]) -> WarmProcess:
    """Start a training of benchmark_two_at_once.py; its variables matter only to figures, not to a smoke test."""
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS[0].parent)!r}); import benchmark_two_at_once as benchmark; "
    return WarmProcess(code + "benchmark.main()", arguments)


def start_python(code: str) -> WarmProcess:
    """Start Python code in a warm process."""
    return WarmProcess(SMALL + code)


def run_mervn(arguments: list[str]) -> None:
    """Run a command in this process."""
    assert run(arguments) == 0


def run_python(code: str, arguments: list[str]) -> str:
    """Run Python code in a warm process, and return what it printed."""
    done = run_warm(code, arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


EXACT = ("crash.lost", "crash.wrong", "crash.full_disk", "crash.sigint", "feed.equal", "feed.device_copies")
"""Figures that meet their goals at any size."""
WITHOUT_STARTS = {
    "run_mervn": run_mervn, "run_python": run_python, "start_python": start_python, "start_training": start_training,
}  # fmt: skip
"""Functions of benchmarks that start a Python process, and what does the same here without its imports."""


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_runs_and_prints_its_figures(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr("mervn.study.study_run.subprocess", WARM_SUBPROCESS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        benchmark = importlib.import_module(path.stem)  # in this process, for importing torch is slow
        for name, replacement in WITHOUT_STARTS.items():
            if hasattr(benchmark, name):
                monkeypatch.setattr(benchmark, name, replacement)
        benchmark.main(["--tiny", "--json"], standalone_mode=False)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["benchmark"] == path.stem.removeprefix("benchmark_")
    assert document["machine"]["versions"]["torch"]
    for figure in document["figures"]:
        assert math.isfinite(figure["value"]) and figure["better"] in ("lower", "higher")
        if figure["id"].startswith(("exactness.", "crash.", "compare.", "feed.equal")) or figure["id"].endswith(
            ".error"
        ):
            assert figure["value"] >= 0  # 0 means bit-identical, nothing lost, or no false positive
        # differences of scores and of memory, and slopes, may be negative
        elif not re.search("gain|exponent|memory_per_utterance.plan", figure["id"]):
            assert figure["value"] > 0
        assert (figure["met"] is None) == (figure["goal"] is None)
    for figure in document["figures"]:
        if figure["id"] in EXACT:
            assert figure["met"], figure
    readme = (path.parent / "README.md").read_text("utf-8")
    for figure in document["figures"]:
        shown = re.sub(r"^exactness\.\w+\.", "exactness.<encoder>.", figure["id"])
        assert figure["goal"] is None or f"`{shown}`" in readme
