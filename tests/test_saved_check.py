"""check.json and its page: all findings, nothing but text from outside, and only folders of checks."""

import json
import shutil
from pathlib import Path

import pytest
from test_check import data, made, plant_audio
from test_html import HOSTILE, Elements
from tiny import read_jsonl, write_manifest

from cli.main import run as mervn
from features.errors import InputError
from mervn.data.saved_check import CHECK_FILE, read_check, read_findings
from mervn.report.check_page import check_verdict, frequent_labels, write_check_report

__all__ = ["data", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]


def test_the_page_of_a_check_shows_its_findings_and_can_be_made_again(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    plant_audio(data)
    for split in ("train", "valid", "test"):
        lines = read_jsonl(data / f"{split}.jsonl")
        for line in lines:
            line["emotion"] = HOSTILE if line["emotion"] == "sad" else line["emotion"]
            line["speaker_id"] = HOSTILE if line["speaker_id"] == "test-1" else line["speaker_id"]
        write_manifest(data / f"{split}.jsonl", lines)
    folder = tmp_path / "checked"
    check = ["check", str(data), "--output", str(folder), "--json"]
    assert mervn(check) == 1
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    path = Path(document.pop("report"))
    saved = read_check(folder)
    assert {key: saved[key] for key in document} == document and saved["request"]["data"] == str(data)
    page = path.read_text("utf-8")
    elements = Elements(page)
    assert elements.names.count("script") == 1 and elements.names.count("svg") == 2 and "alert(1)" in elements.text
    assert all(address.startswith(("#", "data:")) for address in elements.addresses)
    assert "3 errors and 3 warnings: until the errors are fixed" in elements.text
    places = [elements.text.index(finding["message"]) for finding in document["findings"]]
    assert places == sorted(places)
    for finding in document["findings"]:
        assert finding["why"] in elements.text and finding["fix"] in elements.text
        assert all(example in elements.text for example in finding["examples"])
    # the page again, from check.json alone
    path.unlink()
    shutil.move(data, tmp_path / "moved")
    assert mervn(["report", str(folder)]) == 0 and path.read_text("utf-8") == page
    assert mervn(["report", str(folder), "--with-audio"]) == 2
    assert "the report of a check does not read --with-audio" in capsys.readouterr().err
    # a folder is that of one corpus
    assert mervn(["check", str(tmp_path / "moved"), "--output", str(folder)]) == 2
    assert f"existing {str(data)!r}, requested" in capsys.readouterr().err
    shutil.move(tmp_path / "moved", data)
    assert mervn(check) == 1 and read_check(folder)["findings"] == saved["findings"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "must hold a check of schema 1, but has schema 9"),
        ({"corpus": None}, "a value is missing or of another type"),
        ({"corpus": {"splits": {"train": {}}}}, "a value is missing or of another type: KeyError"),
        ({"findings": [{"id": "a"}]}, "must hold a list of findings"),
        ({"request": {}}, "must hold a list of findings and what was checked"),
        ({"counts": {}}, "check again:\n  mervn check /data --output "),
        ("", "must hold a check, but cannot be read"),
        ("[]", "must hold a check, found no JSON object"),
    ],
)
def test_a_damaged_file_is_one_message(change: object, message: str, tmp_path: Path) -> None:
    document = {
        "schema": 1, "request": {"data": "/data", "audio_root": None}, "environment": {"time": "", "versions": {}},
        "findings": [], "counts": {"error": 0, "warning": 0, "info": 0}, "splits": {}, "measured": 0, "hours": 0.0,
        "remarks": [], "corpus": {"splits": {}, "sample_rates": {}, "channels": {}},
    }  # fmt: skip
    (tmp_path / CHECK_FILE).write_text(json.dumps(document))
    assert "Nothing was found" in write_check_report(tmp_path).read_text("utf-8")
    (tmp_path / CHECK_FILE).write_text(json.dumps({**document, **change}) if isinstance(change, dict) else str(change))
    with pytest.raises(InputError, match=message):
        write_check_report(tmp_path)


@pytest.mark.parametrize(("name", "key"), [(CHECK_FILE, "findings"), ("metrics-test.json", "overlap")])
def test_findings_of_a_run_are_read_or_missing_or_damaged(tmp_path: Path, name: str, key: str) -> None:
    assert read_findings(tmp_path, "test") == []
    one = dict.fromkeys(("id", "message", "why", "fix"), "x") | {"severity": "error", "examples": []}

    def write(found: list[dict[str, object]]) -> None:
        document = {"findings": found}
        (tmp_path / name).write_text(json.dumps(document if key == "findings" else {key: document}))

    write([one])
    assert read_findings(tmp_path, "test") == [one]
    assert read_findings(tmp_path, "valid") == ([one] if name == CHECK_FILE else [])
    write([{"severity": "error"}])
    with pytest.raises(InputError, match="must hold a list of findings, but does not; remove it to write a report"):
        read_findings(tmp_path, "test")


def test_scores_of_an_earlier_version_and_of_unknown_training_have_no_findings(tmp_path: Path) -> None:
    for content in ("{}", '{"overlap": null}'):
        (tmp_path / "metrics-test.json").write_text(content)
        assert read_findings(tmp_path, "test") == []


def test_the_verdict_is_that_of_the_most_severe_finding() -> None:
    verdicts = []
    for error, warning in ((0, 0), (0, 1), (1, 0), (2, 1)):
        verdicts.append(check_verdict({"error": error, "warning": warning, "info": 7}))
    assert verdicts[0].startswith("Nothing was found") and verdicts[1].startswith("No errors, but 1 warning:")
    assert verdicts[2].startswith("1 error: until") and verdicts[3].startswith("2 errors and 1 warning: until")


def test_classes_are_sorted_by_their_number_and_missing_labels_come_last() -> None:
    splits = {"train": {"classes": {"": 90, "b": 2, "a": 2}}, "test": {"classes": {"c": 3, "b": 1}}}
    assert frequent_labels(splits) == ["b", "c", "a", ""]
