"""rejected.jsonl: a rejection is settled for the rejected input only, and never after a system error."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_extract import run
from tiny import make_data, wave
from tiny_extraction import decoded, spoil, utterance
from tiny_store import TEXT_IDENTITY

import features.audio.decoding
import features.audio.file_state
import features.extraction.encode
from features.errors import InputError
from features.extraction.scheduler import Scheduler
from features.store.identity import create_store
from features.store.rejected import (
    REJECTED_FILE,
    UNSETTLED,
    RejectedEntry,
    Rejection,
    Rejections,
    append_rejected,
    read_rejected,
    record_rejected,
)

SMALL = {"train": 4, "valid": 1, "test": 1}


def test_a_file_that_was_still_being_copied_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rejection was recorded with what the file had become by the end of the run, and was settled for ever."""
    data = make_data(tmp_path / "data", SMALL)
    paths = [data / "train-001.wav", data / "train-002.wav"]
    whole = [path.read_bytes() for path in paths]
    for path, content in zip(paths, whole):
        path.write_bytes(content[:-1000])
    run_units = Scheduler.run

    def copying(self: Scheduler, *arguments: Any) -> Any:
        for result in run_units(self, *arguments):
            for path, content in zip(paths, whole):
                path.write_bytes(content)
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "run", copying)
        first = run(data)
    assert (first.encoded, first.rejected) == (4, 2)
    again = run(data)
    assert (again.encoded, again.kept, again.rejected) == (2, 4, 0)


def test_a_file_that_is_repaired_while_it_is_decoded_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path / "data", SMALL)
    spoil(data, "train-001", "train-002")
    decode = features.audio.decoding.decode_segment

    def repairing(path: Path, *rest: Any) -> Any:
        try:
            return decode(path, *rest)
        finally:
            if path.stem == "train-001":
                soundfile.write(path, wave(0.5, 1), 16_000)

    with monkeypatch.context() as patch:
        patch.setattr("features.audio.decoding.decode_segment", repairing)
        assert run(data).rejected == 2
    again = run(data)
    assert (again.encoded, again.kept, again.rejected) == (1, 4, 1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("method", ["__init__", "read"])
def test_a_fault_of_the_disk_is_not_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    """One EIO while decoding rejected a good file for ever."""
    data = make_data(tmp_path / "data", SMALL)
    calls = [0]
    original = getattr(soundfile.SoundFile, method)

    def flaky(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == (8 if method == "__init__" else 2):  # planning opens all six
            raise OSError(number, "fault")
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, method, flaky)
        first = run(data)
    assert (first.encoded, first.rejected) == (5, 1)
    (entry,) = read_rejected(Path(first.path)).values()
    assert entry.reason == "system_error" and entry.input is not None
    again = run(data)
    assert (again.encoded, again.kept, again.rejected) == (1, 5, 0)


def test_too_many_open_files_end_the_run_and_reject_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data", SMALL)
    read = soundfile.SoundFile.read
    calls = [0]

    def full(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return read(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "read", full)
        with pytest.raises(InputError, match=r"\.wav: too many files are open.*`ulimit -n`.*no utterance is rejected"):
            run(data)
    (store,) = (data / "stores" / "audio").iterdir()
    assert read_rejected(store) == {}
    assert run(data).rejected == 0


def test_each_audio_file_is_fingerprinted_once_to_plan_and_once_to_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path / "data", SMALL)
    spoil(data, "train-001")
    counts: list[Path] = []
    fingerprint = features.audio.file_state.fingerprint

    def counting(path: Path) -> str | None:
        counts.append(path)
        return fingerprint(path)

    monkeypatch.setattr("features.audio.file_state.fingerprint", counting)
    assert run(data).rejected == 1
    assert len(counts) == 2 * len(set(counts)) == 12


def test_a_rejection_without_an_input_keeps_the_one_in_the_file(tmp_path: Path) -> None:
    info = create_store(tmp_path, TEXT_IDENTITY, {}, "m")
    first = Rejection(utterance("a"), "no_samples", "empty", "key")
    append_rejected(info, [first])
    record_rejected(info, {"a"}, [Rejection(utterance("a"), "no_samples", "empty")])
    assert read_rejected(info.path)["a"].input == "key"
    record_rejected(info, {"a"}, [Rejection(utterance("a"), "truncated", "cut")])  # another fault, of another input
    assert read_rejected(info.path)["a"].input is None


@pytest.mark.parametrize("reason", sorted(UNSETTLED))
def test_a_reason_that_lies_in_the_system_is_tried_again(tmp_path: Path, reason: str) -> None:
    data = make_data(tmp_path / "data", SMALL)
    spoil(data, "train-001")
    path = Path(run(data).path) / "rejected.jsonl"
    entry = json.loads(path.read_text()) | {"reason": reason}
    path.write_text(json.dumps(entry) + "\n")
    assert run(data).rejected == 1
    assert read_rejected(path.parent)["train-001"].reason == "non_finite"


def test_changed_audio_that_is_rejected_is_settled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plain extraction failed, and every one with --update encoded the batch again."""
    data = make_data(tmp_path / "data", SMALL)
    before = (data / "train-001.wav").read_bytes()
    run(data)
    overflowing = np.where(np.arange(8000) % 2, 3e38, -3e38).astype(np.float32)
    soundfile.write(data / "train-001.wav", overflowing, 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match="another content for 1 utterances"):
        run(data)
    updated = run(data, update=True)
    assert (updated.encoded, updated.kept, updated.rejected) == (0, 5, 1)
    with monkeypatch.context() as patch:
        patch.setattr("features.extraction.worker.launch_batch", None)  # nothing is left to encode
        for update in (False, True):
            again = run(data, update=update)
            assert (again.encoded, again.kept, again.rejected) == (0, 5, 1)
    with pytest.raises(InputError, match="another content for 1 utterances"):
        run(data, retry_rejected=True)
    (data / "train-001.wav").write_bytes(before)
    assert run(data).kept == 6


def test_an_utterance_to_be_updated_may_vanish_from_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its part was set aside while the extraction ran: KeyError."""
    data = make_data(tmp_path / "data", SMALL)
    store = Path(run(data).path)
    soundfile.write(data / "train-001.wav", wave(0.5, 1), 16_000)
    read = features.extraction.encode.read_or_reject

    def losing(*arguments: Any) -> Any:
        spoil(data, "train-001")
        for part in store.glob("part-*.h5"):
            part.rename(f"{part}.damaged")
        return read(*arguments)

    monkeypatch.setattr("features.extraction.unit_reader.read_or_reject", losing)
    result = run(data, update=True)
    assert (result.encoded, result.rejected) == (0, 1)
    assert set(read_rejected(store)) == {"train-001"}


def test_a_file_that_was_rewritten_is_read_whole(tmp_path: Path) -> None:
    """A rewritten file whose number was used again was taken for one that had grown."""
    info = create_store(tmp_path, TEXT_IDENTITY, {}, "m")

    def rejected(*names: str, detail: str = "empty") -> list[Rejection]:
        return [Rejection(utterance(name), "no_samples", detail) for name in names]

    record_rejected(info, (), rejected("a", "b", "c"))
    reader = Rejections(info.path)
    other = create_store(tmp_path / "other", TEXT_IDENTITY, {}, "m")
    record_rejected(other, (), [*rejected("d", "b"), *rejected("c", "e", "f", "g", detail="another")])
    content = (other.path / REJECTED_FILE).read_bytes()
    (info.path / REJECTED_FILE).write_bytes(content)  # longer than before, in the same file
    assert reader.refresh() == ["d", "c", "e", "f", "g"] and reader.refresh() == []
    assert dict(reader) == read_rejected(other.path)
    (info.path / REJECTED_FILE).unlink()
    assert reader.refresh() == [] and len(reader) == 0


def test_rejected_entries_may_be_cut_short_anywhere(tmp_path: Path) -> None:
    entry = {"utterance_id": "ừ", "file": "train.jsonl", "line": 1, "reason": "x", "detail": "ừ"}
    content = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    for size in range(len(content)):
        (tmp_path / "rejected.jsonl").write_bytes(content + content[:size])
        assert list(read_rejected(tmp_path)) == ["ừ"]


def test_what_was_rejected_while_encoding_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run used to encode every batch again that held a rejected utterance."""
    data = make_data(tmp_path / "data")
    spoil(data, "train-003", "valid-002")
    first = run(data)
    assert (first.encoded, first.rejected) == (40, 2)
    counts = decoded(monkeypatch)
    again = run(data)
    assert (again.encoded, again.kept, again.rejected, counts.total()) == (0, 40, 2, 0)
    assert set(read_rejected(Path(first.path))) == {"train-003", "valid-002"}
    assert run(data, retry_rejected=True).rejected == 2 and counts["train-003"] == counts["valid-002"] == 1
    soundfile.write(data / "train-003.wav", wave(0.5, 3), 16_000)  # its source has changed
    repaired = run(data)
    assert (repaired.encoded, repaired.rejected) == (1, 1)
    assert set(read_rejected(Path(first.path))) == {"valid-002"}


@pytest.mark.parametrize("retry", [False, True])
def test_a_stored_utterance_whose_audio_is_restored_is_no_longer_rejected(tmp_path: Path, retry: bool) -> None:
    """Its features were never lost, so that no command removed its rejection."""
    data = make_data(tmp_path / "data", SMALL)
    store = Path(run(data).path)
    paths = [data / "train-001.wav", data / "train-002.wav"]
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(b"")
    broken = run(data)
    assert (broken.kept, broken.rejected) == (4, 2) and set(read_rejected(store)) == {"train-001", "train-002"}
    paths[0].write_bytes(whole[0])
    partly = run(data, retry_rejected=retry)
    assert (partly.encoded, partly.kept, partly.rejected) == (0, 5, 1)
    assert set(read_rejected(store)) == {"train-002"}


def test_a_rejection_that_lies_in_the_machine_is_not_settled(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    path = Path(run(data).path) / REJECTED_FILE
    entry = {"utterance_id": "train-000", "reason": "out_of_memory", "detail": "", "input": "x"}
    path.write_text(json.dumps(entry) + "\n")
    assert Rejections(path.parent).settled(utterance("train-000"), "text") is None


def test_rejections_are_read_as_they_are_added(tmp_path: Path) -> None:
    info = create_store(tmp_path, TEXT_IDENTITY, {}, "m")
    rejections = Rejections(info.path)
    append_rejected(info, [Rejection(utterance("a"), "no_samples", "empty")])
    assert rejections.refresh() == ["a"] and rejections.refresh() == []
    with (info.path / REJECTED_FILE).open("ab") as file:
        file.write('{"utterance_id": "b", "detail": "ứ'.encode()[:-1])  # killed in the middle of a letter
    assert rejections.refresh() == [] and set(read_rejected(info.path)) == {"a"}
    append_rejected(info, [Rejection(utterance("c"), "no_samples", "empty")])
    assert rejections.refresh() == ["c"] and set(rejections) == {"a", "c"} == set(read_rejected(info.path))


@pytest.mark.parametrize(
    ("key", "value"), [("utterance_id", 1), ("reason", None), ("detail", []), ("input", 5), ("line", "1"), ("file", 2)]
)
def test_an_invalid_entry_is_skipped(tmp_path: Path, key: str, value: object) -> None:
    entry = {"utterance_id": "a", "file": "train.jsonl", "line": 1, "reason": "x", "detail": "y", "input": "z"}
    assert RejectedEntry.from_json(entry).as_json() == entry
    (tmp_path / REJECTED_FILE).write_text(json.dumps(entry | {key: value}) + "\n")
    assert read_rejected(tmp_path) == {}
    with pytest.raises(ValueError, match=f"{key} must be|line an integer"):
        RejectedEntry.from_json(entry | {key: value})


def test_a_shard_forgets_only_its_own_rejections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression test: the second shard removed what the first had tried again, and nobody recorded it any more."""
    data = make_data(tmp_path / "data", {"train": 12, "valid": 1, "test": 1})
    names = [f"train-{i:03}" for i in range(12)]
    spoil(data, *names)
    store = Path(run(data, batch_seconds=0.5).path)
    assert set(read_rejected(store)) == set(names)
    counts = decoded(monkeypatch)
    for number in (1, 2):
        before = counts.copy()
        run(data, batch_seconds=0.5, retry_rejected=True, shard=(number, 2))
        tried = {name for name in names if counts[name] > before[name]}
        assert tried and tried < set(names)
        assert set(read_rejected(store)) == set(names)
    assert all(counts[name] == 1 for name in names)  # each shard tries its own
