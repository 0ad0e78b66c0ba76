"""Commands that end with a complete run add its report, and never fail because of it."""

from pathlib import Path
from typing import Any

import pytest
from test_train_head import data, made

from cli.main import run as mervn
from mervn.run_folder import read_config

__all__ = ["data", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]
FLAGS = ["--dim", "8", "--mlp", "4", "--epochs", "1", "--batch-size", "8"]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that a report is written for, without the time that its figures take."""
    found: list[Path] = []

    def write(run: Path) -> Path:
        found.append(run)
        (run / "report.html").write_text("a page")
        return run / "report.html"

    monkeypatch.setattr("mervn.report.html.write_report", write)
    return found


def train(data: Path, run: Path, *flags: str) -> int:
    return mervn(["train-head", "--data", str(data), "--output", str(run), *FLAGS, *flags])


def test_a_run_and_each_evaluation_have_a_report(data: Path, tmp_path: Path, pages: list[Path]) -> None:
    run = tmp_path / "run"
    assert train(data, run) == 0 and pages == [run]
    assert train(data, run) == 0 and pages == [run]  # complete already, with its report
    (run / "report.html").unlink()
    assert train(data, run) == 0 and pages == [run] * 2
    assert mervn(["evaluate", str(run)]) == 0 and pages == [run] * 3
    assert mervn(["evaluate", str(run), "--no-report"]) == 0
    assert mervn(["evaluate", str(run), "--split", "train"]) == 0
    assert mervn(["evaluate", str(run), "--without", "text"]) == 0
    assert len(pages) == 3  # the page shows other scores than these


def test_the_report_is_no_part_of_the_configuration(data: Path, tmp_path: Path, pages: list[Path]) -> None:
    assert train(data, tmp_path / "with") == 0
    assert train(data, tmp_path / "without", "--no-report") == 0
    assert pages == [tmp_path / "with"]
    first, second = (read_config(tmp_path / name) for name in ("with", "without"))
    assert first.configuration == second.configuration and first.hash == second.hash
    assert "report" not in first.options
    assert train(data, tmp_path / "without") == 0  # the same configuration again
    assert train(data, tmp_path / "with", "--force", "--no-report") == 0
    assert not (tmp_path / "with" / "report.html").exists()  # no page of the scores before


def test_a_report_that_fails_is_a_warning(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    def fail(run: Path) -> Any:
        raise ZeroDivisionError("no figure")

    monkeypatch.setattr("mervn.report.html.write_report", fail)
    assert train(data, tmp_path / "run", "--json") == 0
    found = capsys.readouterr()
    assert "warning: no report.html was written, but the run is complete: no figure" in found.err
    assert '"trained": true' in found.out.splitlines()[-1]
