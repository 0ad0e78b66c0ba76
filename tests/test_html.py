"""The report of a run: everything a reader needs, in one file that runs nothing foreign and asks for nothing."""

import json
import re
import shutil
import subprocess
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train_head import data, made, train
from tiny import read_jsonl, write_manifest

from cli.main import run as mervn
from features.errors import InputError, UsageError
from features.progress import SILENT
from features.store.reader import FeatureStore
from mervn.config import EvaluateOptions, ReportOptions
from mervn.evaluation.attention import read_attention
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.open_run import open_run
from mervn.report.html import MAX_MISTAKES, confident_mistakes, group_rows, mistakes, render_run, write_report
from mervn.report.lengths import lengths_caption, padding, read_lengths
from mervn.report.page import TEMPLATES
from mervn.report.run_data import read_run
from mervn.report.transcripts import read_utterances
from mervn.run_folder import read_config

__all__ = ["data", "made"]  # fixtures
CHROMIUM = shutil.which("chromium")
Captured = pytest.CaptureFixture[str]
FLAGS = ["--dim", "8", "--mlp", "4", "--epochs", "1", "--batch-size", "8"]
HOSTILE = "<script>alert(1)</script></svg>&\"'$x$"


@pytest.fixture
def finished(data: Path, tmp_path: Path) -> Path:
    return train(data, tmp_path / "run").path


class Elements(HTMLParser):
    """Counts the elements of a page, and collects its text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self._hidden = tag in ("script", "style")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data


def test_a_report_shows_the_scores_on_valid_and_later_those_on_test(finished: Path, data: Path) -> None:
    path = write_report(finished)
    page = Elements(path.read_text("utf-8"))
    metrics = json.loads((finished / "metrics.json").read_text())
    assert f"{metrics['valid']['macro_f1']:.3f} on valid" in page.text
    assert "chosen on valid, so these scores are optimistic" in page.text
    assert f"epoch {metrics['selected_epoch']} was chosen" in page.text
    assert page.names.count("svg") == 6 and page.names.count("script") == 1
    findings = json.loads((finished / "check.json").read_text())["findings"]
    assert findings and all(each["message"] in page.text and each["fix"] in page.text for each in findings)
    assert any(each["severity"] == "warning" for each in findings) and "explained below: " in page.text
    evaluate(finished, EvaluateOptions(split="test"))
    looks = (finished / "test_access.jsonl").read_bytes()
    page = Elements(write_report(finished).read_text("utf-8"))
    assert " on test" in page.text and "optimistic" not in page.text
    assert (finished / "test_access.jsonl").read_bytes() == looks  # a report is no look
    with pytest.raises(InputError, match=r"metrics-train\.json does not exist; evaluate it first:\n  mervn evaluate"):
        write_report(finished, ReportOptions.model_construct(split="train"))


def test_a_report_of_a_run_without_a_check_has_no_findings(finished: Path) -> None:
    (finished / "check.json").unlink()
    page = Elements(write_report(finished).read_text("utf-8"))
    assert "Findings about the data" not in page.text and "explained below" not in page.text
    (finished / "check.json").write_text('{"findings": [{}]}')
    with pytest.raises(InputError, match="remove it to write a report without them"):
        write_report(finished)


def test_every_address_is_within_the_page_and_a_run_has_one_page(finished: Path) -> None:
    page = write_report(finished).read_text("utf-8")
    assert write_report(finished).read_text("utf-8") == page
    assert all(address.startswith(("#", "data:")) for address in Elements(page).addresses)
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)  # names of formats, which nothing opens
    assert "http:" not in outside and "https:" not in outside and "@import" not in page
    assert "default-src 'none'" in page


def test_hostile_names_stay_text(data: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        entries = read_jsonl(data / f"{split}.jsonl")
        for entry in entries:
            entry["emotion"] = HOSTILE if entry["emotion"] == "sad" else entry["emotion"]
            entry["transcript"] = None if entry["transcript"] is None else entry["transcript"]
            entry["dialect"] = HOSTILE + str(entry["take"] % 2)
        write_manifest(data / f"{split}.jsonl", entries)
    page = write_report(train(data, tmp_path / "run", epochs=1).path).read_text("utf-8")
    elements = Elements(page)
    assert elements.names.count("script") == 1 and "alert(1)" in elements.text
    assert page.count("<svg") == page.count("</svg>") == elements.names.count("svg")


def test_mistakes_come_in_the_order_of_their_confidence(finished: Path, data: Path) -> None:
    lines = read_jsonl(finished / "predictions-valid.jsonl")
    for place, entry in enumerate(lines):
        wrong = next(label for label in entry["probabilities"] if label != entry["label"])
        sure, entry["prediction"] = 0.6 + place / 100, wrong
        entry["probabilities"] = {label: sure if label == wrong else 1 - sure for label in entry["probabilities"]}
    write_manifest(finished / "predictions-valid.jsonl", lines)
    with pytest.raises(InputError, match="must give the scores of the run, but does not; evaluate it again"):
        read_run(finished)
    metrics = json.loads((finished / "metrics.json").read_text())
    metrics["valid"]["confusion"] = [[0, 5], [5, 0]]
    (finished / "metrics.json").write_text(json.dumps(metrics))
    run = read_run(finished)
    chosen, utterances = confident_mistakes(run.predictions), read_utterances(data)
    found = mistakes(run, chosen, utterances)
    assert [entry["id"] for entry in found] == [entry["utterance_id"] for entry in reversed(lines)][:MAX_MISTAKES]
    assert any("hôm nay" in entry["transcript"] for entry in found)
    assert not any(entry["transcript"] for entry in mistakes(run, chosen, {}))
    assert "hôm nay" not in render_run(run, ReportOptions(transcripts=False))


def test_bad_input_is_one_clear_message(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mervn(["report", str(tmp_path / "nowhere")]) == 2
    assert "must be the folder of a run" in capsys.readouterr().err
    path = finished / "predictions-valid.jsonl"
    whole = path.read_text("utf-8")
    cases = {
        whole[: len(whole) // 2 - 9]: r"predictions-valid\.jsonl:\d+: must be one JSON object",
        whole[: whole.index("\n") + 1]: "must hold the 10 utterances that were scored, found 1; evaluate the run again",
        "": "must hold the 10 utterances that were scored, found 0",
        whole.replace("happy", "angry"): r":\d+: .* must be one of the run's labels happy, sad, found",
    }
    for content, message in cases.items():
        path.write_text(content, "utf-8")
        with pytest.raises(InputError, match=message):
            write_report(finished)
    path.unlink()
    with pytest.raises(InputError, match="has no predictions for valid; evaluate it first"):
        write_report(finished)
    (finished / "metrics.json").unlink()
    with pytest.raises(InputError, match="must be a complete run, but has no metrics"):
        write_report(finished)
    with pytest.raises(UsageError):
        read_run(tmp_path)


def test_a_page_shows_the_attention_and_the_audio_of_mistakes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mervn.report.html.run_figures", lambda *_: [])  # test_html looks at these
    run = train(data, tmp_path / "run", pooling="attn", epochs=1).path
    before = sorted(path.name for path in (*run.iterdir(), *data.iterdir()))
    page = write_report(run, ReportOptions(attention=1, with_audio=True)).read_text("utf-8")
    wrong = [entry for entry in read_jsonl(run / "predictions-valid.jsonl") if entry["label"] != entry["prediction"]]
    first = max(wrong, key=lambda entry: max(entry["probabilities"].values()))
    assert f"Attention: {first['utterance_id']}: {first['label']}" in page and page.count("Attention: ") == 1
    assert "text_to_audio, mean over the heads" in page and "Attentive pooling" in page
    assert page.count('src="data:audio/flac;base64,') == len(wrong) > 0
    assert sorted(path.name for path in (*run.iterdir(), *data.iterdir())) == sorted([*before, "report.html"])
    opened = open_run(run, EvaluateOptions(), SILENT)
    with pytest.raises(InputError, match="must give the saved probabilities of .*, but one differs by"):
        read_attention(opened, {first["utterance_id"]: {"happy": 0.9, "sad": 0.1}})
    with pytest.raises(InputError, match="must hold 'nobody' of valid, but it has no features"):
        read_attention(opened, {"nobody": first["probabilities"]})


def test_a_head_without_attention_is_refused(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", fusion="audio", pooling="mean", epochs=1).path
    with pytest.raises(
        UsageError, match="cross-attention or --pooling attn .* found the fusion audio with the pooling"
    ):
        write_report(run, ReportOptions(attention=1))


def test_lengths_are_those_of_the_stores_and_padding_is_the_mean_of_the_epochs(finished: Path, data: Path) -> None:
    run = read_run(finished)
    found = read_lengths(run)
    assert found is not None
    for stream, name in (("audio", "audio"), ("text", "text")):
        (path,) = (data / "stores" / name).glob("*-L*")
        store = FeatureStore(path)
        for split in ("train", "valid"):
            ids = [line["utterance_id"] for line in read_jsonl(data / f"{split}.jsonl")]
            assert found[stream][split] == [store.num_frames(one) for one in ids]
    fractions = padding(run.history)
    drawn = [entry["drawn"]["padding_efficiency"]["audio"] for entry in run.history]
    assert fractions["audio"] == pytest.approx(1 - np.mean(drawn)) and 0 < fractions["audio"] < 1
    caption = lengths_caption(found, fractions)
    assert f"Padding fills {fractions['audio']:.0%} of the audio positions" in caption
    manifest = data / "train.jsonl"
    manifest.write_text(manifest.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    assert read_lengths(run) is None  # the run was not trained on these
    manifest.unlink()
    assert read_lengths(run) is None


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


def train_by_command(data: Path, run: Path, *flags: str) -> int:
    return mervn(["train-head", "--data", str(data), "--output", str(run), *FLAGS, *flags])


def test_a_run_and_each_evaluation_have_a_report(data: Path, tmp_path: Path, pages: list[Path]) -> None:
    run = tmp_path / "run"
    assert train_by_command(data, run) == 0 and pages == [run]
    assert train_by_command(data, run) == 0 and pages == [run]  # complete already, with its report
    (run / "report.html").unlink()
    assert train_by_command(data, run) == 0 and pages == [run] * 2
    assert mervn(["evaluate", str(run)]) == 0 and pages == [run] * 3
    assert mervn(["evaluate", str(run), "--no-report"]) == 0
    assert mervn(["evaluate", str(run), "--split", "train"]) == 0
    assert mervn(["evaluate", str(run), "--without", "text"]) == 0
    assert len(pages) == 3  # the page shows other scores than these


def test_the_report_is_no_part_of_the_configuration(data: Path, tmp_path: Path, pages: list[Path]) -> None:
    assert train_by_command(data, tmp_path / "with") == 0
    assert train_by_command(data, tmp_path / "without", "--no-report") == 0
    assert pages == [tmp_path / "with"]
    first, second = (read_config(tmp_path / name) for name in ("with", "without"))
    assert first.configuration == second.configuration and first.hash == second.hash
    assert "report" not in first.options
    assert train_by_command(data, tmp_path / "without") == 0  # the same configuration again
    assert train_by_command(data, tmp_path / "with", "--force", "--no-report") == 0
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
    assert train_by_command(data, tmp_path / "run", "--json") == 0
    found = capsys.readouterr()
    assert "warning: no report.html was written, but the run is complete: no figure" in found.err
    assert '"trained": true' in found.out.splitlines()[-1]


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours (WCAG 2.1)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_text_has_contrast_in_every_theme() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    themes = re.findall(r":root \{([^}]*--surface[^}]*)\}", (TEMPLATES / "page.html").read_text("utf-8"))
    assert len(themes) == 3  # light, dark, print
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme))
        for text in ("ink", "muted", "accent", "second"):
            for ground in ("surface", "raised"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, theme)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_it_without_errors_or_sideways_scrolling(finished: Path, tmp_path: Path) -> None:
    page = write_report(finished).read_text("utf-8")
    probe = "<style>html { width: 380px }</style><script>addEventListener('load', () => { document.title = "
    probe += "JSON.stringify({ wide: document.body.scrollWidth, tables: document.querySelectorAll('td').length }) })"
    (tmp_path / "probe.html").write_text(page.replace("</body>", f"{probe}</script></body>"), "utf-8")
    command: list[Any] = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'probe.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title is not None
    found = json.loads(title[1])
    assert found["wide"] <= 380 and found["tables"] > 10


def test_a_group_in_two_unicode_forms_is_one(data: Path, tmp_path: Path) -> None:
    lines = read_jsonl(data / "valid.jsonl")
    for number, line in enumerate(lines):
        line["region"] = ("Huế", unicodedata.normalize("NFD", "Huế"), "Vinh")[number % 3]
    write_manifest(data / "valid.jsonl", lines)
    found = group_rows(read_run(train(data, tmp_path / "run", epochs=1).path).predictions)
    assert [(value, number) for key, value, number, _ in found if key == "region"] == [("Huế", 7), ("Vinh", 3)]
