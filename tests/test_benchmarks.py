"""Every benchmark runs and prints its figures in the common format."""

import importlib
import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
from warm_process import WarmProcess, run_warm

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("benchmark_*.py"))


def start_training(arguments: list[str], _: Mapping[str, str]) -> WarmProcess:
    """Start a training of benchmark_two_at_once.py; its variables matter only to figures, not to a smoke test."""
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS[0].parent)!r}); import benchmark_two_at_once as benchmark; "
    return WarmProcess(code + "benchmark.main()", arguments)


def run_mervn(arguments: list[str]) -> None:
    """Run a command in a warm process; a study starts its processes as forks too."""
    warm = "from warm_process import start_studies_warm; start_studies_warm(); " if arguments[0] == "ablate" else ""
    done = run_warm(f"{warm}from cli.main import main; main()", arguments)
    assert done.returncode == 0, done.stderr


def run_python(code: str, arguments: list[str]) -> str:
    """Run Python code in a warm process, and return what it printed."""
    done = run_warm(code, arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


WARM = {
    "run_mervn": run_mervn, "run_python": run_python, "start_python": WarmProcess, "start_training": start_training,
}  # fmt: skip
"""Functions of benchmarks that start a process, and what starts a warm one in their place."""


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_runs_and_prints_its_figures(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        benchmark = importlib.import_module(path.stem)  # in this process, for importing torch is slow
        for name, warm in WARM.items():
            if hasattr(benchmark, name):
                monkeypatch.setattr(benchmark, name, warm)
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
        elif "gain" not in figure["id"]:  # a difference of scores may be negative
            assert figure["value"] > 0
        assert (figure["met"] is None) == (figure["goal"] is None)
    readme = (path.parent / "README.md").read_text("utf-8")
    for figure in document["figures"]:
        shown = re.sub(r"^exactness\.\w+\.", "exactness.<encoder>.", figure["id"])
        assert figure["goal"] is None or f"`{shown}`" in readme
