"""Every benchmark runs and prints its figures in the common format."""

import importlib
import json
import math
import re
import warnings
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parent.parent / "benchmarks").glob("benchmark_*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_runs_and_prints_its_figures(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(path.stem).main(["--tiny", "--json"], standalone_mode=False)  # importing torch is slow
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["benchmark"] == path.stem.removeprefix("benchmark_")
    assert document["machine"]["versions"]["torch"]
    for figure in document["figures"]:
        assert math.isfinite(figure["value"]) and figure["better"] in ("lower", "higher")
        if figure["id"].startswith(("exactness.", "crash.")) or figure["id"].endswith(".error"):
            assert figure["value"] >= 0  # 0 means bit-identical
        elif "gain" not in figure["id"]:  # a difference of scores may be negative
            assert figure["value"] > 0
        assert (figure["met"] is None) == (figure["goal"] is None)
    readme = (path.parent / "README.md").read_text("utf-8")
    for figure in document["figures"]:
        shown = re.sub(r"^exactness\.\w+\.", "exactness.<encoder>.", figure["id"])
        assert figure["goal"] is None or f"`{shown}`" in readme
