"""Comparison of a corpus with a store: equal to comparing one utterance after the other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import Messages, wave
from tiny_store import make_store, other_than, stored, write

from features.audio.segment import AudioError
from features.extraction import comparison as module
from features.extraction.audio_files import read_files
from features.extraction.audio_segments import Segments, SourceTexts
from features.extraction.comparison import Compared, CorpusComparison
from features.extraction.encoder_input import InputComparison, audio_source, read_audio
from features.manifests.manifest import Utterance
from features.store.identity import StoreInfo
from features.store.maintenance import convert
from features.store.reader import FeatureStore

COUNT = 24


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Segments of three recordings; the path of one needs escapes in JSON."""
    made = []
    for name in ("a.wav", 'ầ "b".wav', "c.wav"):
        soundfile.write(tmp_path / name, wave(1.0, ord(name[0])), 16_000)
    for i in range(COUNT):
        name = ("a.wav", 'ầ "b".wav', "c.wav")[i % 3]
        end = None if i % 4 == 0 else 0.9 - 0.01 * i
        channel = (0, "mix")[i % 2]
        made.append(Utterance(f"u{i}", None, name, tmp_path / name, 0.01 * i, end, channel, "", None, "t", "-", i, {}))  # type: ignore[arg-type]
    return made


@pytest.fixture
def info(tmp_path: Path, utterances: list[Utterance]) -> StoreInfo:
    """A store of all but two utterances; a newer part replaces some, and some have another input."""
    info = make_store(tmp_path / "stores")
    entries = []
    for i, one in enumerate(utterances[:-2]):
        digest = "0" * 64 if i % 4 == 3 else read_audio(one)[1]
        source = audio_source(replace(one, start=9.0) if i % 5 == 2 else one).json_text()
        entries.append(replace(stored(one.utterance_id, 2), input_sha256=digest, source=source))
    wrong = [replace(entry, input_sha256="1" * 64, source='{"path": "x"}') for entry in entries[:9]]
    write(info, wrong)  # replaced by a higher generation
    write(info, entries, generation=1)
    return info


def one_by_one(utterances: list[Utterance], store: FeatureStore, decode: bool) -> dict[int, str]:
    """Return, for each utterance, what the comparison with its stored input says."""
    comparison, found = InputComparison("audio", Messages(), decode=decode), dict[int, str]()
    for i, one in enumerate(utterances):
        if one.utterance_id in store:
            ((_, freshness),) = comparison.compare([(i, one, store.utterance_info(one.utterance_id))])
            found[i] = freshness.reason if isinstance(freshness, AudioError) else freshness
    return found


def in_columns(utterances: list[Utterance], store: FeatureStore, decode: bool, skipped: int = -1) -> dict[int, str]:
    segments = Segments.of(utterances)
    files = read_files(segments.paths, store.path, save=False, threads=1, reporter=Messages())
    inputs = InputComparison("audio", Messages(), decode=decode)
    found = CorpusComparison(utterances, inputs, SourceTexts(segments, files)).compare(
        store, np.arange(len(utterances)) == skipped
    )
    return words(found)


def words(found: Compared) -> dict[int, str]:
    named = {int(i): "same" for i in np.flatnonzero(found.is_stored)}
    named |= dict.fromkeys(np.flatnonzero(found.is_changed).tolist(), "changed")
    return named | dict.fromkeys(found.moved, "moved") | {i: each.reason for i, each in found.unusable.items()}


@pytest.mark.parametrize("decode", [False, True])
def test_a_corpus_is_compared_as_utterance_by_utterance(
    utterances: list[Utterance], info: StoreInfo, decode: bool
) -> None:
    (utterances[0].audio_path.parent / "c.wav").write_bytes(b"no audio any more")
    store = FeatureStore(info.path)
    expected = one_by_one(utterances, store, decode)
    assert set(expected.values()) == {"same", "moved", "changed", "unreadable"} and len(expected) == COUNT - 2
    assert in_columns(utterances, store, decode) == expected
    del expected[5]
    assert in_columns(utterances, store, decode, skipped=5) == expected


def test_an_equal_source_needs_no_other_comparison(
    utterances: list[Utterance], info: StoreInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(info.path)
    assert store.utterance_info("u2").source != audio_source(utterances[2]).json_text()
    store.remember_sources({one.utterance_id: audio_source(one).json_text() for one in utterances[:-2]})
    monkeypatch.setattr(InputComparison, "_without_decoding", None)
    assert in_columns(utterances, store, decode=False) == dict.fromkeys(range(COUNT - 2), "same")


def test_parts_that_are_converted_meanwhile_are_read_where_they_are(
    utterances: list[Utterance], info: StoreInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, read = FeatureStore(info.path), module.read_columns
    expected = one_by_one(utterances, store, decode=False)

    def read_after_conversion(*arguments: object) -> object:
        monkeypatch.undo()
        convert(info.path, other_than("hdf5"), lambda _: None)
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_columns", read_after_conversion)
    assert in_columns(utterances, store, decode=False) == expected
