"""The report of a study: its verdict claims what the table shows after correction, and nothing else."""

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_html import Elements

from cli.main import run as mervn
from features.atomic_files import write_json
from features.errors import InputError
from mervn.report.figures import plot_rows
from mervn.report.study_page import linear_verdict, name_of, study_verdict, study_warnings, write_study_report

LINE = {
    "fusion": "late", "tuned": "", "split": "test", "reference": "false", "n": "240", "seeds": "3",
    "macro_f1_mean": "0.5", "macro_f1_std": "0.01", "macro_f1_low": "0.4", "macro_f1_high": "0.6", "unit": "speaker_id",
    "groups": "20", "effective_groups": "18.500000", "method": "jackknife, t(19)", "difference": "",
    "difference_low": "", "difference_high": "", "p": "", "p_holm": "", "test": "", "smallest_difference": "",
}  # fmt: skip
CELL = {
    "fusion": "late", "status": "complete", "selected_epoch": "3", "valid_macro_f1": "0.5", "seconds": "2.0",
    "run": "runs/a", "error": "",
}  # fmt: skip


def line(fusion: str, difference: float | None = None, p: float | None = None, **changes: str) -> dict[str, str]:
    found = {**LINE, "fusion": fusion, "reference": str(difference is None).lower(), **changes}
    if difference is not None and p is not None:
        found |= {"difference": str(difference), "difference_low": f"{difference - 0.05}"}
        found |= {"difference_high": f"{difference + 0.05}"}
        found |= {"p": str(p), "p_holm": str(p), "smallest_difference": "0.04"}
    return found


def write(path: Path, lines: list[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def make_study(folder: Path, table: list[Mapping[str, str]], cells: list[Mapping[str, str]] | None = None) -> Path:
    folder.mkdir()
    effect = {"axis": "fusion", "value": "late", "pairs": "0", "macro_f1_mean": "0.5"}
    effect |= dict.fromkeys(("difference", "difference_low", "difference_high", "p_holm"), "")
    write(folder / "table.csv", table)
    write(folder / "effects.csv", [effect])
    write(folder / "cells.csv", cells or [CELL])
    return folder


def test_only_corrected_differences_are_claimed() -> None:
    table = [line("late"), line("xattn", 0.1, 0.01), line("audio", -0.2, 0.04), line("text", -0.3, 0.06)]
    assert study_verdict(table, ["fusion"]) == (
        "Shown to be better than late on test: xattn. Shown to be worse than late on test: audio."
    )
    assert study_verdict([line("late"), line("xattn", 0.1, 0.2)], ["fusion"]) == (
        "No row is shown to differ from late on test. A difference of 0.040 to 0.040 could be shown."
    )
    doubtful = {**line("xattn", 0.1, 0.01), "difference_low": "-0.01"}  # p alone is no evidence
    assert study_verdict([line("late"), doubtful], ["fusion"]).startswith("No row is shown to differ")
    few = [line("late", groups="6"), *(line(name, -0.3, 0.094, groups="6") for name in ("a", "b", "c"))]
    assert "with 6 units of evidence and 3 tests, the smallest corrected p is 0.09" in study_verdict(few, ["fusion"])
    untested = study_verdict([line("late"), {**line("xattn", 0.1), "difference": "0.1"}], ["fusion"])
    assert untested.startswith("No row could be tested against late")
    assert study_verdict([line("late"), line("xattn", 0.1, n="235")], ["fusion"]) == (
        "Not compared with the reference (240 utterances), because their utterances, labels or seeds are others: "
        "xattn (235)."
    )
    assert "no complete cells" in study_verdict([line("xattn", 0.1, 0.01)], ["fusion"])


def test_a_difference_that_changes_with_the_seed_is_not_claimed() -> None:
    seeds = {"difference_seeds_low": "-0.3", "difference_seeds_high": "0.5"}
    agree = {"difference_seeds_low": "0.05", "difference_seeds_high": "0.15"}
    table = [line("late"), line("xattn", 0.1, 0.01, **seeds), line("text", 0.1, 0.01, **agree)]
    assert study_verdict(table, ["fusion"]) == (
        "Shown to be better than late on test: text. Not shown to differ from late, because the difference changes "
        "with the seed: xattn."
    )
    assert "better than late on test: text" not in study_verdict(table[:2], ["fusion"])


def test_the_verdict_names_five_rows_and_counts_the_others() -> None:
    table = [line("late"), *(line(f"f{number}", 0.1, 0.01) for number in range(9))]
    assert study_verdict(table, ["fusion"]).endswith("on test: f0; f1; f2; f3; f4 and 4 more.")


def test_a_long_table_has_figures_that_fit_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, float]] = []
    monkeypatch.setattr("mervn.report.figures.draw", lambda name, _, size, __: drawn.append((name, size[1])))
    plot_rows([(f"row {number}", 0.5, 0.4, 0.6, number == 0) for number in range(135)])
    assert [name for name, _ in drawn] == ["rows", "rows-32", "rows-64", "rows-96", "rows-128"]
    assert max(height for _, height in drawn) < 9  # inches; a page of A4 has 11.7
    assert plot_rows([]) == []


@pytest.mark.parametrize("number", [0, 1])
def test_a_first_row_or_a_reference_without_complete_cells_leaves_the_others_shown(tmp_path: Path, number: int) -> None:
    nothing = dict.fromkeys(key for key in LINE if key not in ("fusion", "split", "reference", "tuned", "seeds"))
    table = [line("late"), line("xattn"), line("text")]
    table[1]["reference"] = table[2]["reference"] = "false"
    table[number] |= dict.fromkeys(nothing, "") | {"seeds": "0"}
    table = table if number == 0 else [table[1], table[0], table[2]]
    page = write_study_report(make_study(tmp_path / "study", table)).read_text("utf-8")
    assert ("The reference has no complete cells, so nothing is compared." in page) == (number == 0)
    assert "jackknife, t(19), 20 units (speaker_id), 18.5 effective" in page
    failed = [line("late") | dict.fromkeys(nothing, "")]
    assert "has no complete cells" in write_study_report(make_study(tmp_path / "none", failed)).read_text("utf-8")


def test_test_speakers_of_the_training_are_said(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study", [line("late")])
    run = folder / CELL["run"]
    run.mkdir(parents=True)
    one = dict.fromkeys(("message", "why", "fix"), "") | {"examples": []}
    found = [{"id": name, "severity": severity, **one} for name, severity in (("a_b", "error"), ("c_d", "info"))]
    for overlap, is_said in (([], False), (found, True), (None, False)):
        written = None if overlap is None else {"findings": overlap, "remarks": []}
        write_json(run / "metrics-test.json", {"overlap": written})
        page = write_study_report(folder).read_text("utf-8")
        assert ("test is not all new to the models: a_b. mervn check explains it." in page) == is_said
        assert ("not compared, because the manifests of the training are missing" in page) == (overlap is None)


def test_seeds_failures_and_valid_scores_are_said() -> None:
    table = [line("late", split="valid"), line("xattn", 0.1, 0.2, seeds="1")]
    said = " ".join(study_warnings(table, [CELL]))
    assert "optimistic" in said and "1 cells failed" in said and "1 to 3 seeds" in said
    assert "one seed for each row" in study_warnings([line("late", seeds="1")], [])[0]
    assert not study_warnings([line("late"), line("xattn", 0.1, 0.2)], [])


def compared(fusion: str, flag: str, low: str = "-0.1", **changes: str) -> dict[str, str]:
    found = {"linear_difference": "0.05", "linear_difference_low": low, "linear_difference_high": low and "0.2"}
    return {**line(fusion, 0.1, 0.2), "group": "rows", "kind": "head", "against_linear": flag, **found, **changes}


def test_rows_that_do_not_beat_linear_are_named() -> None:
    flag, few = "does not beat linear", "no interval: fewer than 4 units"
    table = [compared("late", flag), compared("xattn", "beats linear", "0.01"), compared("text", flag)]
    assert linear_verdict(table, ["fusion"]) == (
        "Does not beat linear on its own features (2 of 3 compared): late; text."
    )
    assert linear_verdict(table[1:2], ["fusion"]) == (
        "No row is flagged against linear on its own features: their intervals are above it (1 of 1 compared)."
    )
    assert linear_verdict([compared("late", few, "")], ["fusion"]) == (
        "Whether a row beats linear on its own features is unknown (no interval: fewer than 4 units)."
    )
    assert linear_verdict([compared("late", "", "")], ["fusion"]) == ""
    assert linear_verdict([line("late")], ["fusion"]) == ""  # a table of before


def test_baselines_have_a_table_of_their_own(tmp_path: Path) -> None:
    of_baseline = {"group": "baselines", "fusion": "linear", "against_linear": "", "linear_difference_low": ""}
    table = [
        compared("late", "does not beat linear", reference="true"),
        {**compared("xattn", "beats linear", "0.01"), "p_holm": "0.01"},
        {**compared("linear", "", ""), **of_baseline, "kind": "linear", "seeds": "1", "p_holm": ""},
        {**compared("majority", "", ""), **of_baseline, "fusion": "majority", "kind": "majority", "seeds": ""},
    ]
    page = write_study_report(make_study(tmp_path / "study", table)).read_text("utf-8")
    text = Elements(page).text
    assert "Shown to be better than late on test: xattn. Does not beat linear on its own features" in text
    assert "+0.050 (-0.100 to 0.200): does not beat linear" in text and "+0.050 (0.010 to 0.200)" in text
    assert page.count('<table class="sortable">') == 4 and "Baselines are at the end" in text
    assert page.index("majority: always the most frequent") > page.index("against linear")
    assert name_of({**table[2], "fusion": "linear_text", "pooling": ""}, ["fusion", "pooling"]) == "linear_text"
    assert name_of({**table[2], "labels": "a,b"}, ["labels"]) == "linear, a,b"
    assert not study_warnings([{**table[1]}, {**table[2], "group": "rows"}], [])  # linear has no other seeds


def test_a_page_shows_every_row_and_cell_and_keeps_text_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "<script>alert(1)</script>"
    failed = {**CELL, "status": "failed", "run": "runs/b", "error": hostile, "valid_macro_f1": "", "seconds": ""}
    study = make_study(tmp_path / "study", [line("late"), line(hostile, 0.1, 0.01)], [CELL, failed])
    assert mervn(["report", str(study)]) == 0
    page = (study / "report.html").read_text("utf-8")
    elements = Elements(page)
    assert elements.names.count("script") == 1 and elements.names.count("svg") == 1
    for text in ("0.500 ± 0.010", "0.400 to 0.600", "+0.100", "0.010", "18.5 effective", "runs/b", "alert(1)"):
        assert text in elements.text
    assert "Shown to be better than late" in elements.text
    before = (study / "report.html").read_bytes()
    write_study_report(study)
    assert (study / "report.html").read_bytes() == before


def test_missing_and_damaged_tables_are_named(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", [line("late")])
    (study / "effects.csv").unlink()
    with pytest.raises(InputError, match=r"effects\.csv does not exist; run the same mervn ablate again"):
        write_study_report(study)
    study = make_study(tmp_path / "cut", [line("late")])
    (study / "cells.csv").write_text("run,status\nruns/a\n")
    with pytest.raises(InputError, match=r"cells\.csv:2 must have as many values as the first line"):
        write_study_report(study)
    study = make_study(tmp_path / "other", [{"name": "x"}])
    with pytest.raises(InputError, match=r"table\.csv must be the table of a study, but lacks tuned, split"):
        write_study_report(study)


def test_rows_that_are_not_compared_are_named_once(tmp_path: Path) -> None:
    compared_too = make_study(tmp_path / "both", [line("late"), line("xattn", 0.1, 0.2), line("text", 0.1, n="235")])
    alone = make_study(tmp_path / "alone", [line("late"), line("text", 0.1, n="235")])
    complete = make_study(tmp_path / "complete", [line("late"), line("xattn", 0.1, 0.2)])
    counts = [
        write_study_report(study).read_text().count("Not compared with") for study in (compared_too, alone, complete)
    ]
    assert counts == [1, 1, 0]  # as a warning, as the verdict, and not at all
