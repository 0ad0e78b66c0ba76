"""Transcripts: measured once, with the lengths and counts that the encoder alone gives."""

import json
import os
import signal
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Recorder, make_phobert, make_videberta

from features import process_map
from features.encoders import transcript_tokens
from features.encoders.base import Encoder, load_encoder
from features.encoders.layer_means import LayerMeans
from features.encoders.selector import EncoderSettings, parse_selector
from features.encoders.transcript_tokens import TranscriptCounter, TranscriptTokens
from features.encoders.transformer_text import TextTransformer
from features.extraction import transcripts as module
from features.extraction.known_transcripts import KnownTranscripts
from features.extraction.settings import ExtractSettings
from features.extraction.transcripts import Transcripts, _digests, measure_transcripts
from features.manifests.manifest import Utterance
from features.process_map import WorkProcess
from features.text.normalize import TokenCounts, is_segmented, normalize_text, text_sha256

WORDS = ("hôm nay", "tôi", "vui", "lắm", "sinh viên", "sinh_viên", "hòa", "hoà", "xyz", "😀", "\u200b")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phobert(tmp_path_factory.mktemp("models") / "phobert")


def load(name: str, checkpoint: Path, **settings: str) -> Encoder:
    text = "hashed_ngrams" if name == "hashed_ngrams" else f"phobert={checkpoint}"
    encoder = load_encoder(parse_selector(text, "text"), EncoderSettings(**settings))
    return LayerMeans(encoder) if name == "means" else encoder


@pytest.fixture
def utterances() -> list[Utterance]:
    """Transcripts that repeat, are missing, empty, decomposed, too long, or cannot be told apart by their length."""
    generator, found = np.random.default_rng(0), []
    for i in range(150):
        text: str | None = " ".join(generator.choice(WORDS, generator.integers(1, 9)))
        if i % 10 == 0:
            text = (None, "", " \u200b ", "tôi " * 400, unicodedata.normalize("NFD", "hôm nay"))[i // 10 % 5]
        found.append(Utterance(f"u{i}", None, "a.wav", Path("a.wav"), 0.0, None, "mix", text, None, "t", "-", i, {}))
    return found


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 32)


def measure(utterances: Sequence[Utterance], encoder: Encoder, folder: Path, plan_only: bool = False) -> Transcripts:
    return measure_transcripts(utterances, encoder, ExtractSettings(folder, plan_only=plan_only), Recorder())


def content(found: Transcripts) -> tuple[Any, ...]:
    indices = range(len(found.lengths))
    return (found.lengths.tolist(), found.is_empty.tolist(), found.num_truncated, found.token_counts,
            found.hashes.of(indices))  # fmt: skip


def alone(utterances: Sequence[Utterance], encoder: Encoder) -> tuple[Any, ...]:
    """Return what the encoder says of each transcript."""
    texts = [normalize_text(one.transcript or "") for one in utterances]
    return (
        [len(encoder.prepare(text)) for text in texts],
        [text == "" for text in texts],
        sum(map(encoder.is_truncated, texts)),
        encoder.count_tokens(texts),
        list(map(text_sha256, texts)),
    )


@pytest.mark.parametrize("name", ["hashed_ngrams", "phobert", "means"])
def test_transcripts_have_the_lengths_and_counts_of_their_encoder(
    name: str, checkpoint: Path, utterances: list[Utterance], tmp_path: Path
) -> None:
    expected = alone(utterances, load(name, checkpoint))
    assert content(measure(utterances, load(name, checkpoint), tmp_path)) == expected
    assert len(list(tmp_path.iterdir())) == (0 if name == "hashed_ngrams" else 1)
    assert content(measure(utterances, load(name, checkpoint), tmp_path)) == expected
    assert (expected[2], expected[3] is None) == ((0, True) if name == "hashed_ngrams" else (3, False))


def test_known_transcripts_are_not_tokenized_again(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, read = content(measure(utterances, load("phobert", checkpoint), tmp_path)), []
    tokens = TranscriptTokens.tokens
    monkeypatch.setattr(TranscriptTokens, "tokens", lambda self, text: read.append(text) or tokens(self, text))
    assert content(measure(utterances, load("phobert", checkpoint), tmp_path)) == expected and not read
    changed = [
        replace(utterances[0], transcript="tôi vui lắm"),
        *utterances[1:],
        replace(utterances[0], transcript="a"),
    ]
    found = content(measure(changed, load("phobert", checkpoint), tmp_path))
    assert set(read) == {"tôi vui lắm", "a"} and found != expected
    assert found == alone(changed, load("phobert", checkpoint))


@pytest.mark.parametrize("settings", [{"segmenter": "none"}, {"tone_style": "old"}])
def test_another_tokenization_reads_the_transcripts_itself(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path, settings: dict[str, str]
) -> None:
    before = content(measure(utterances, load("phobert", checkpoint), tmp_path))
    other = load("phobert", checkpoint, **settings)
    found = content(measure(utterances, other, tmp_path))
    assert found == alone(utterances, load("phobert", checkpoint, **settings))
    assert found != before and len(list(tmp_path.iterdir())) == 2


def test_the_tokenization_changes_with_the_tokenizer_and_its_packages(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("phobert", checkpoint)
    assert first.tokenization == load("means", checkpoint).tokenization
    json.dumps(first.tokenization)
    other = load("phobert", make_phobert(tmp_path / "other", words=("một", "hai", "ba")))
    assert other.tokenization != first.tokenization
    before = first.tokenization
    with monkeypatch.context() as patched:
        patched.setattr("features.encoders.transformer_text.segmenter_sha256", lambda name: "0" * 64)
        assert first.tokenization != before
    with monkeypatch.context() as patched:
        patched.setattr("features.encoders.transformer_text.package_version", lambda name: "0")
        assert first.tokenization != before
    assert first.tokenization == before


@pytest.mark.parametrize("option", [{"extra_special_tokens": ["tôi"]}, {"split_special_tokens": True}])
def test_the_tokenization_changes_with_every_option_of_the_tokenizer(
    checkpoint: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    other = make_phobert(tmp_path / "other")
    assert load("phobert", other).tokenization == load("phobert", checkpoint).tokenization  # in another folder
    (other / "tokenizer_config.json").write_text(json.dumps(option))
    assert load("phobert", other).tokenization != load("phobert", checkpoint).tokenization


def test_a_plan_writes_nothing_and_a_new_folder_is_waited_for(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path
) -> None:
    measure(utterances, load("phobert", checkpoint), tmp_path, plan_only=True).keep()
    assert not list(tmp_path.iterdir())
    found = measure(utterances, load("phobert", checkpoint), tmp_path / "stores")
    assert not (tmp_path / "stores").exists()
    found.keep()
    assert len(list((tmp_path / "stores").iterdir())) == 1


def test_what_was_measured_before_an_interruption_is_kept(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        calls.append(1)
        if len(calls) == 7:  # five times while all are hashed, and once after 32 were counted
            raise KeyboardInterrupt

    calls: list[int] = []
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "check_interrupted", interrupt)
        measure(utterances, load("phobert", checkpoint), tmp_path)
    texts = sorted({normalize_text(one.transcript or "") for one in utterances})
    known = KnownTranscripts(tmp_path, load("phobert", checkpoint).tokenization).find(_digests(texts))[1]
    assert known.sum() == 32
    compact, read = TranscriptTokens.compact, []
    monkeypatch.setattr(TranscriptTokens, "compact", lambda self, text: read.append(text) or compact(self, text))
    measure(utterances, load("phobert", checkpoint), tmp_path)
    assert set(read) == {text for text, is_known in zip(texts, known, strict=True) if text and not is_known}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The processes that count; all have ended when the test ends."""
    popen, found = subprocess.Popen, []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: found.append(popen(*args, **kwargs)) or found[-1])
    monkeypatch.setattr(module, "AT_ONCE", 16)
    monkeypatch.setattr(module, "MIN_NEW", 50)
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    yield found
    assert all(process.returncode is not None for process in found)


@pytest.mark.parametrize("kills", [False, True])
def test_several_processes_count_what_one_counts(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path, started: list[Any], kills: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    send, sent, encoder = WorkProcess.send, [], load("phobert", checkpoint)

    def kill(self: WorkProcess[list[str], Any]) -> None:
        sent.append(1)
        if kills and len(sent) > 2 and self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        send(self)

    monkeypatch.setattr(WorkProcess, "send", kill)
    if not kills:
        monkeypatch.setattr(TranscriptCounter, "__call__", None)  # of this process
    assert content(measure(utterances, encoder, tmp_path)) == alone(utterances, load("phobert", checkpoint))
    assert len(started) == 2 and len(sent) > 5
    texts, other = [normalize_text(one.transcript or "") for one in utterances], load("phobert", checkpoint)
    expected = [other.prepare(text).tolist() for text in texts]
    monkeypatch.setattr(TranscriptTokens, "words", None)  # all tokens are remembered
    assert [encoder.prepare(text).tolist() for text in texts] == expected


@pytest.mark.parametrize("reason", ["few", "workers", "cores", "class", "folder", "java", "hashed_ngrams"])
def test_no_process_is_started_without_need(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path, started: list[Any], reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    encoder: Any = load("hashed_ngrams" if reason == "hashed_ngrams" else "phobert", checkpoint)
    settings = ExtractSettings(tmp_path, workers=0 if reason == "workers" else None)
    if reason == "few":
        monkeypatch.setattr(module, "MIN_NEW", 1000)
    elif reason == "cores":
        monkeypatch.setattr(module, "usable_cores", lambda: 1)
    elif reason == "class":
        encoder.tokenizer.__class__ = type("Local", (type(encoder.tokenizer),), {})
    elif reason == "folder":
        encoder.tokenizer.name_or_path = "no/folder"
    elif reason == "java":
        encoder._transcripts.segmenter = "vncorenlp 1.2"
    found = measure_transcripts(utterances, encoder, settings, Recorder())
    assert not started and found.lengths.any()


@pytest.mark.parametrize("name", ["phobert", "videberta"])
def test_processes_have_the_tokenizer_of_their_encoder_or_do_nothing(
    name: str, checkpoint: Path, utterances: list[Utterance], tmp_path: Path, started: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = checkpoint if name == "phobert" else make_videberta(tmp_path / "videberta")
    encoder: Any = load_encoder(parse_selector(f"{name}={folder}", "text"))
    expected, call, here = alone(utterances, encoder), TranscriptCounter.__call__, []
    monkeypatch.setattr(TranscriptCounter, "__call__", lambda self, texts: here.append(1) or call(self, texts))
    assert content(measure(utterances, encoder, tmp_path / "first")) == expected
    assert len(started) == 2 and not here
    encoder.tokenizer.add_tokens(["xyz", "lắm"])
    encoder._transcripts._tokens.clear()
    changed = alone(utterances, encoder)
    assert content(measure(utterances, encoder, tmp_path / "second")) == changed != expected
    assert len(started) == 4 and len(here) > 5


@pytest.mark.parametrize("answer", ["time.sleep(60)", "1 / 0"])
def test_processes_that_hang_or_fail_at_their_start_are_not_waited_for(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path, started: list[Any], answer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(process_map, "START", "import time\n" + answer + "# {digits} {descriptor}")
    monkeypatch.setattr(process_map, "START_LIMIT_S", 0.3)
    encoder = load("phobert", checkpoint)
    assert content(measure(utterances, encoder, tmp_path)) == alone(utterances, load("phobert", checkpoint))
    assert len(started) == 2


def test_ctrl_c_ends_the_wait_for_a_process(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    calls: list[int] = []
    monkeypatch.setattr(process_map, "START", "import time\ntime.sleep(60)  # {digits} {descriptor}")
    monkeypatch.setattr(process_map, "check_interrupted", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(utterances, load("phobert", checkpoint), tmp_path)
    assert len(started) == 2


def test_a_transcript_is_segmented_once(
    checkpoint: Path, utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, segmented = load("phobert", checkpoint), list[str]()
    assert isinstance(encoder, TextTransformer)
    segment = encoder._transcripts._segment
    monkeypatch.setattr(encoder._transcripts, "_segment", lambda text: segmented.append(text) or segment(text))
    measure(utterances, encoder, tmp_path)
    texts = {normalize_text(one.transcript or "") for one in utterances} - {""}
    assert len(segmented) == len([text for text in texts if not is_segmented(text)]) > 50


def counted(encoder: Any, texts: Sequence[str]) -> TokenCounts:
    """Count tokens and words of all transcripts together."""
    tokenizer = encoder.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    tokens = Counter(token for text in texts for token in encoder.tokens(text) if token not in special)
    words = Counter(word for text in texts for word in encoder.words(text).split())
    ids = {word: tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word)) for word in words}
    single = [words[word] for word in words if len(ids[word]) == 1 and ids[word] != [tokenizer.unk_token_id]]
    segmented = sum(map(is_segmented, texts))
    return TokenCounts(tokens.total(), tokens[tokenizer.unk_token_id], words.total(), sum(single), segmented)


@pytest.mark.parametrize("max_known", [3, 1000])
def test_tokens_are_counted_also_if_few_are_remembered(
    checkpoint: Path, utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch, max_known: int
) -> None:
    texts = [text for one in utterances if (text := normalize_text(one.transcript or ""))]
    expected = counted(load("phobert", checkpoint), texts)
    assert 0 < expected.unknown < expected.tokens and 0 < expected.single_token < expected.words and expected.segmented
    monkeypatch.setattr(transcript_tokens, "MAX_KNOWN", max_known)
    encoder: Any = load("phobert", checkpoint)
    assert encoder.count_tokens(texts) == expected == counted(encoder, texts)
    assert len(encoder._transcripts._tokens) <= max_known
