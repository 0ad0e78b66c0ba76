"""`mervn serve` in a real browser: the numbers of `evaluate`, clear refusals, nothing kept, no foreign request."""

import json
import os
import shutil
import signal
import stat
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from test_html import contrast
from test_train_head import made, train
from tiny import RATE, Messages, make_whisper_asr, read_jsonl, wave

from cli.main import run as mervn
from features.errors import InputError
from mervn.config import EvaluateOptions
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.verdict import CHOSEN_ON_VALID
from mervn.report.page import render
from mervn.serving.answers import Answers, fault
from mervn.serving.serve import (
    OPEN_TO_OTHERS,
    address,
    is_loopback,
    listen,
    load_transcriber,
    prepare,
    require_gradio,
    serve,
)
from mervn.serving.serve_options import ServeOptions
from mervn.serving.uploads import KEPT_S, Uploads, private_uploads
from mervn.transcription.transcribe import transcribe
from mervn.use.model_facts import LIKE_TRAINING, read_facts
from mervn.use.recognizer import EmotionRecognizer

__all__ = ["made"]  # a fixture
CHROMIUM = shutil.which("chromium")
needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None or find_spec("gradio") is None,
    reason="needs gradio, playwright and Chromium",
)
TEXT = "hôm nay tôi vui lắm"
COLOURS = """() => {
    const hex = colour => "#" + colour.match(/\\d+/g).slice(0, 3).map(n => (+n).toString(16).padStart(2, "0")).join("");
    const style = (name, key) => hex(getComputedStyle(document.querySelector(name))[key]);
    return [style(".served .note", "color"), style("body", "backgroundColor")];
}"""
"""Function that returns the colours of small text and of the page."""


@dataclass
class Served:
    """A server that runs in a thread."""

    url: str
    uploads: Uploads
    messages: Messages

    def files(self) -> list[str]:
        return [path.name for path in self.uploads.folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def run(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = train(made, tmp_path_factory.mktemp("serve") / "first", pooling="attn").path
    evaluate(run, EvaluateOptions(split="test"))
    return run


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Served]:
    require_gradio()
    messages, options = Messages(), ServeOptions(concurrency=2, max_size_mb=0.1, max_duration_s=60, device="cpu")
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(listen("127.0.0.1", 0)) as listener,
        private_uploads() as uploads,
    ):
        patch.setattr("mervn.serving.serve.GRACE_S", 0)  # for connections of tests that have ended
        server = prepare(run, options, uploads, messages)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Served(address(listener), uploads, messages)
        server.should_exit = True
        thread.join()


@dataclass
class Visitor:
    """One page in a browser, with everything that it asked for; opening one takes a second."""

    page: Any
    requests: list[str]
    errors: list[str]


@pytest.fixture(scope="module")
def visitor(served: Served) -> Iterator[Visitor]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        found = Visitor(browser.new_page(viewport={"width": 1100, "height": 800}), [], [])
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on("console", lambda line: line.type == "error" and found.errors.append(line.text))
        found.page.goto(served.url)
        yield found
        browser.close()


@needs_gradio
def test_wrong_usage_is_one_message(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(listen("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        cases = {
            (str(run), "--port", port): f"--port {port} is used by another program; give another port",
            (str(run), "--port", "65536"): "--port: input should be less than or equal to 65535, found '65536'",
            (str(run), "--port", "0", "--host", "192.0.2.1"): "--host must be an address of this machine",
            (str(run), "--port", "0", "--host", "no such host"): "--host must be an address of this machine",
            (str(run), "--concurrency", "1"): "--concurrency: input should be greater than or equal to 2",
            (
                str(run),
                "--port",
                "0",
                "--transcribe",
                "words",
            ): "--transcribe: the value must have the form in its help, `",
            (str(tmp_path), "--port", "0"): "must be the folder of a run",
        }
        for arguments, message in cases.items():
            assert mervn(["serve", *arguments]) == 2
            shown = capsys.readouterr()
            assert message in shown.err and shown.err.count("\n") == 1 and not shown.out, arguments


def test_without_gradio_the_extra_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert mervn(["serve", str(run)]) == 2
    assert "pip install 'mervn[serve]'" in capsys.readouterr().err


@needs_gradio
def test_ctrl_c_ends_it_with_one_line(run: Path) -> None:
    messages, ports, seen = Messages(), list[int](), list[int]()

    def visit_and_stop() -> None:
        seen.append(ask(f"http://127.0.0.1:{ports[0]}"))
        os.kill(os.getpid(), signal.SIGINT)

    def started(url: str) -> None:
        ports.append(int(url.rsplit(":", 1)[1]))
        threading.Thread(target=visit_and_stop).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    serve(run, ServeOptions(port=0, host="0.0.0.0", device="cpu"), messages, started)
    signal.signal(signal.SIGINT, before)
    assert seen == [200] and messages.said == [f"warning: {OPEN_TO_OTHERS}", "stopped; uploads are deleted"]
    with closing(listen("0.0.0.0", ports[0])) as again:  # the port is free
        assert not is_loopback(again)


def test_the_address_of_the_default_is_this_machine() -> None:
    with closing(listen(ServeOptions().host, 0)) as listener:
        assert is_loopback(listener) and address(listener).startswith("http://127.0.0.1:")


def test_equal_uploads_are_deleted_when_the_last_is_answered() -> None:
    with private_uploads() as uploads:
        assert stat.S_IMODE(uploads.folder.stat().st_mode) == 0o700
        path = uploads.folder / "hash" / "a.wav"
        path.parent.mkdir()
        path.write_bytes(b"x")
        uploads.add(str(path))
        uploads.add(str(path))
        uploads.delete(str(path))
        assert path.exists()
        uploads.delete(str(path))
        assert not path.parent.exists()
        (uploads.folder / "link").symlink_to("/etc")
        outside = ("/etc/passwd", f"{uploads.folder}/../x", f"{uploads.folder}/link/passwd", str(uploads.folder), "")
        assert not any(map(uploads.holds, outside))
    assert not uploads.folder.exists()


def test_files_that_nobody_asks_about_are_deleted_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mervn.serving.uploads.SWEEP_S", 0.01)
    with private_uploads() as uploads:
        old, new, unfinished = (
            uploads.folder / "a" / "old.wav",
            uploads.folder / "b" / "new.wav",
            uploads.folder / "tmp1",
        )
        for path, age in ((old, KEPT_S + 10), (new, KEPT_S - 100), (unfinished, KEPT_S + 10)):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
            os.utime(path, (time.time() - age,) * 2)
        wait_until(lambda: not old.parent.exists() and not unfinished.exists())
        assert new.exists()


@pytest.fixture(scope="module")
def recognizer(run: Path) -> EmotionRecognizer:
    return EmotionRecognizer.from_pretrained(run, device="cpu")


def copied(made: Path, uploads: Uploads, name: str = "test-000.wav") -> str:
    """Return an upload."""
    path = shutil.copy(made / name, uploads.folder)
    uploads.add(str(path))
    return str(path)


def test_a_transcription_keeps_the_audio_for_the_prediction(recognizer: EmotionRecognizer, made: Path) -> None:
    heard, words = list[int](), [TEXT, ""]

    def hear(samples: Any) -> str:
        heard.append(len(samples))
        return words[len(heard) - 1]

    with private_uploads() as uploads:
        answers = Answers(recognizer, ServeOptions(), uploads, Messages(), hear)
        audio = copied(made, uploads)
        text, message = answers.transcribe(audio, "typed")
        assert text == TEXT and "Check the text" in message and heard == [round(0.3 * RATE)]
        text, message = answers.transcribe(audio, "typed")
        assert text == "typed" and "No words were recognised" in message  # nothing typed is lost
        assert "Most likely" in answers.predict(audio, text) and not Path(audio).exists()
        assert answers.transcribe(audio, "a") == ("a", fault("The audio was deleted: record or choose it again."))
        assert "There is no audio yet" in answers.transcribe(None, "a")[1] and len(heard) == 2


def test_the_button_gives_the_text_of_mervn_transcribe(tmp_path: Path) -> None:
    model, samples = f"whisper={make_whisper_asr(tmp_path / 'asr')}", wave(0.5, 1)
    transcriber = load_transcriber(ServeOptions(transcribe=model, device="cpu"))
    assert transcriber is not None and load_transcriber(ServeOptions()) is None
    assert transcriber(samples) == transcribe([samples], model, "cpu")[0] != ""


def test_a_fault_of_the_program_prints_nothing_of_the_input(recognizer: EmotionRecognizer, made: Path) -> None:
    messages = Messages()
    with private_uploads() as uploads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognizer, "explain", lambda *given: 1 / 0)
        audio = copied(made, uploads)
        page = Answers(recognizer, ServeOptions(), uploads, messages).predict(audio, TEXT)
        assert "a fault of the program" in page and 'role="alert"' in page and not Path(audio).exists()
    assert messages.said == ["error: a request failed: ZeroDivisionError"]


def test_text_and_audio_have_limits(recognizer: EmotionRecognizer) -> None:
    with private_uploads() as uploads:
        answers = Answers(recognizer, ServeOptions(), uploads, Messages())
        assert "at most 2000 characters, found 2001" in answers.predict(None, "a" * 2001)
        assert "There is no audio. The model treats" in answers.predict(None, f" {TEXT} ")
        assert "There is no input yet" in answers.predict(None, "  ")
        wide = uploads.folder / "wide.wav"
        soundfile.write(wide, np.zeros((10, 20), np.int16), 48_000)
        assert "found 20 channels at 48000 Hz" in answers.predict(str(wide), None) and not wide.exists()
        hostile = answers.predict(None, "<script>alert(1)</script>")
        assert "<script" not in hostile and "&lt;" in hostile


def test_the_facts_are_those_of_these_weights(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "<b>"
    shutil.copytree(run, copy)
    model = EmotionRecognizer.from_pretrained(copy, device="cpu").model
    metrics = json.loads((copy / "metrics-test.json").read_text())
    metrics["intervals"]["uar"] = {"low": 0.25, "high": 0.75, "unit": "speaker_id", "groups": 24}
    (copy / "metrics-test.json").write_text(json.dumps(metrics))
    facts = read_facts(model)
    assert (facts.split, facts.num, facts.reads) == ("test", 8, "speech and its transcript")
    assert facts.scores[1] == ("UAR", f"{metrics['test']['uar']:.3f}", "95 % interval 0.250 to 0.750 over 24 speakers")
    assert facts.warnings[0] == LIKE_TRAINING and CHOSEN_ON_VALID not in facts.warnings
    assert ("utterances", "24 in train, 10 in valid") in facts.origin
    assert "The data has a fault (few_speakers): 3 speakers in train; 3 speakers in valid." in facts.warnings
    assert "<b>" not in render("served_header.html", facts=facts, minutes=10, limits="")
    metrics["model_sha256"] = "of other weights"
    (copy / "metrics-test.json").write_text(json.dumps(metrics))
    facts = read_facts(model)
    valid = json.loads((copy / "metrics.json").read_text())["valid"]
    assert (facts.split, facts.num) == ("valid", valid["n"]) and CHOSEN_ON_VALID in facts.warnings
    assert facts.scores[0][1:] == (
        f"{valid['macro_f1']:.3f}",
        "no interval: it needs at least 4 units, found 3 speakers",
    )
    (copy / "predictions-valid.jsonl").unlink()
    assert read_facts(model).scores[0][2] == "no interval: mervn evaluate computes it"
    valid.pop("uar")
    (copy / "metrics.json").write_text(json.dumps(json.loads((copy / "metrics.json").read_text()) | {"valid": valid}))
    with pytest.raises(InputError, match="must hold metrics .* but a value is missing .*KeyError.'uar'"):
        read_facts(model)


def ask(url: str, body: Any = None) -> int:
    """Return the status of a request, with JSON as its body if there is one."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code


@needs_gradio
def test_only_uploads_are_read_and_only_routes_of_the_page_exist(served: Served, made: Path) -> None:
    join = f"{served.url}/gradio_api/queue/join"

    def status(path: str, *more: Any) -> int:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return ask(join, {"fn_index": 0, "session_hash": "s", "data": [file, "text", *more]})

    upload = served.uploads.folder / "a.wav"
    upload.write_bytes(b"no audio")
    outside = ["/etc/passwd", "../etc/passwd", f"{upload.parent}/../x", "http://127.0.0.1:9/a.wav", str(made / "a.wav")]
    assert [status(path) for path in outside] == [403] * len(outside)
    assert status(str(upload), "more") == 403 and ask(join, {"fn_index": 0, "data": [3, {}]}) == 403
    assert ask(join, "x" * 100_001) == 413
    files = f"{served.url}/gradio_api/file="
    assert [ask(files + path) for path in (*outside, "%2e%2e/%2e%2e/etc/passwd")] == [404] * 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mervn.serving.uploads.MAX_FILES", 1)
        assert ask(f"{served.url}/gradio_api/upload", "x") == 503
    assert ask(f"{served.url}/gradio_api/upload", "x") == 400  # no form with a file
    assert ask(f"{served.url}/gradio_api/upload", "x" * 300_000) == 413
    assert ask(files + str(upload)) == ask(f"{served.url}/config") == 200
    for path in (
        "monitoring",
        "docs",
        "gradio_api/run/predict",
        "gradio_api/proxy=http://a.hf.space",
        "gradio_api/runs",
    ):
        assert ask(f"{served.url}/{path}") == 404
    assert status(str(upload)) == 200
    wait_until(lambda: not upload.exists())  # it is refused, and deleted
    assert served.messages.said == []


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for at most 30 seconds."""
    end = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def choose(page: Any, path: Path) -> None:
    """Upload a file."""
    with page.expect_response(lambda response: "/upload?" in response.url):
        page.locator("input[type=file]").set_input_files(path)
    page.get_by_label("Clear").or_(page.get_by_label("Remove")).first.wait_for()


def predict(page: Any) -> None:
    page.get_by_role("button", name="Predict").click()


def scores(page: Any) -> dict[str, float]:
    """Return the probabilities that a page shows."""
    bars = page.locator(".bars li")
    bars.first.wait_for()
    return {bar.get_attribute("data-label"): float(bar.get_attribute("data-score")) for bar in bars.all()}


@needs_browser
def test_a_browser_shows_the_probabilities_of_evaluate_and_the_server_keeps_nothing(
    visitor: Visitor, served: Served, run: Path, made: Path
) -> None:
    entry, saved, page = read_jsonl(made / "test.jsonl")[0], read_jsonl(run / "predictions-test.jsonl"), visitor.page
    metrics = json.loads((run / "metrics-test.json").read_text())
    choose(page, made / entry["wav_path"])
    assert served.files() == [entry["wav_path"]]
    page.get_by_label("What is said").fill(entry["transcript"])
    predict(page)
    found = scores(page)
    assert found == pytest.approx(saved[0]["probabilities"], abs=1e-5)
    assert found != pytest.approx(saved[1]["probabilities"], abs=1e-5)  # those of another utterance
    assert list(found) == sorted(found, key=found.__getitem__, reverse=True)
    assert served.files() == [] and served.messages.said == []
    shown, best = page.locator("body").inner_text(), max(found, key=found.__getitem__)
    assert f"Most likely: {best}" in shown and f"Without the text, {best} has" in shown
    assert page.locator(".words span").count() > 4 and page.locator("figure svg").count() == 1
    assert f"{metrics['test']['macro_f1']:.3f} (no interval: it needs at least 4 units, found 3 speakers)" in shown
    assert LIKE_TRAINING in shown
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function(f"document.body.classList.contains('dark') === {str(theme == 'dark').lower()}")
        inks = page.evaluate(COLOURS)
        assert contrast(*inks) >= 4.5, (theme, inks)
    assert {urlsplit(url.removeprefix("blob:")).netloc for url in visitor.requests} == {urlsplit(served.url).netloc}
    assert visitor.errors == []


@needs_browser
def test_what_cannot_be_used_is_refused_with_a_message(visitor: Visitor, served: Served, tmp_path: Path) -> None:
    fake, long, page = tmp_path / "fake.wav", tmp_path / "long.flac", visitor.page
    fake.write_text("this is text")
    with soundfile.SoundFile(long, "w", 1000, 1) as file:
        for _ in range(4):
            file.write(np.zeros(1_800_000, np.int16))
    (tmp_path / "large.wav").write_bytes(b"x" * 200_000)
    message = page.locator(".message.fault")
    page.get_by_label("What is said").fill("")
    predict(page)
    message.get_by_text("There is no input yet: record or choose audio and type what is said.").wait_for()
    for path, text in ((fake, "fake.wav must be audio"), (long, "at most 60 s, found 7200.0 s")):
        choose(page, path)
        predict(page)
        message.get_by_text(text).wait_for()
        assert served.files() == []
    page.locator("input[type=file]").set_input_files(tmp_path / "large.wav")
    page.get_by_text("exceed the maximum allowed size of").wait_for()
    assert served.files() == []


@needs_browser
def test_the_second_visitor_waits_and_the_third_is_refused(
    visitor: Visitor, served: Served, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain, begun, free = EmotionRecognizer.explain, list[str](), threading.Semaphore(0)

    def held(self: EmotionRecognizer, audio: Any, text: Any) -> Any:
        begun.append(text)
        assert free.acquire(timeout=30)
        return explain(self, audio, text)

    def join(text: str) -> int:
        body = {"fn_index": 0, "session_hash": text, "data": [None, text]}
        return ask(f"{served.url}/gradio_api/queue/join", body)

    monkeypatch.setattr(EmotionRecognizer, "explain", held)
    page = visitor.page
    page.get_by_label("What is said").fill("ba")
    assert join("một") == 200
    wait_until(lambda: begun == ["một"])
    predict(page)
    page.get_by_text("queue: 1/1").first.wait_for()
    assert join("hai") == 503
    free.release(2)
    reference = {one["label"]: one["score"] for one in EmotionRecognizer.from_pretrained(run, device="cpu")(text="ba")}
    assert scores(page) == pytest.approx(reference, abs=1e-6)
    assert join("một") == 200
    wait_until(lambda: begun == ["một", "ba", "một"])
    assert join("hai") == 200
    predict(page)
    page.get_by_text("This application is currently busy. Please try again.").wait_for()
    free.release(2)
    wait_until(lambda: begun == ["một", "ba", "một", "hai"])
