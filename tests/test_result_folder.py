"""Results on disk: whole or missing, durable before they are called complete, with ordinary permissions."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_pretrain import SMALL as SMALL_ENCODER
from test_train_head import SMALL, data, made, outcome, train

from cli.main import run as mervn
from features import atomic_files
from features.atomic_files import temporary_beside, write_atomically
from features.errors import UsageError
from mervn.config import FinetuneOptions, PretrainOptions
from mervn.finetuning.finetune import finetune
from mervn.pretraining.pretrain import pretrain
from mervn.result_folder import require_same

__all__ = ["data", "made"]  # fixtures
UNSYNCED = {".lock", "history.jsonl"}
FLAGS = [part for key in ("dim", "epochs") for part in (f"--{key}", str(SMALL[key]))]


def tune(data: Path, run: Path) -> None:
    options = FinetuneOptions(
        data=data, output=run, audio_encoder="fourier2vec", text_encoder="hashed_ngrams", dim=16, heads=2, mlp=(8,),
        epochs=1, batch_size=8, workers=0,
    )  # fmt: skip
    finetune(options, None)


@pytest.mark.parametrize("kind", ["train-head", "finetune"])
def test_weights_are_on_disk_before_a_run_is_called_complete(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    synced: set[int] = set()
    unsynced: list[Path] = []
    plain_sync, plain_replace, run = os.fsync, Path.replace, tmp_path / "run"

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        plain_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        if target == run / "metrics.json":
            files = [path for path in run.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
            unsynced.extend(p for p in files if p.stat().st_ino not in synced and p.name not in UNSYNCED)
        return plain_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    train(data, run) if kind == "train-head" else tune(data, run)
    assert unsynced == []


@pytest.mark.parametrize("output", ["file/run", "broken", "broken/run", "loop/run"])
def test_an_output_that_can_be_no_folder_is_wrong_usage(
    data: Path, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert mervn(["train-head", "--data", str(data), *FLAGS, "--output", str(tmp_path / output)]) == 2
    assert f"{tmp_path / output} must be a folder for the run" in capsys.readouterr().err


def test_a_place_where_nobody_may_write_is_a_message(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["train-head", "--data", str(data), *FLAGS, "--output", str(tmp_path / "run")]
    for number, code, message in (
        (errno.EPERM, 1, "Operation not permitted"),  # /sys
        (errno.ENOENT, 2, "must be a folder for the run, but it cannot be created"),  # /proc
    ):

        def mkdir(self: Path, *arguments: Any, number: int = number, **options: Any) -> None:
            raise OSError(number, os.strerror(number), str(self))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", mkdir)
            assert mervn(call) == code
        assert message in capsys.readouterr().err


def test_only_values_that_differ_are_listed_as_the_difference(tmp_path: Path) -> None:
    requested = {"prompt": (1, 2), "language": "en"}
    require_same(tmp_path, "transcription", {"prompt": [1, 2], "language": "en"}, requested)
    with pytest.raises(UsageError, match="language: existing 'vi', requested 'en'") as error:
        require_same(tmp_path, "transcription", {"prompt": [1, 2], "language": "vi"}, requested)
    assert "prompt" not in str(error.value)


def test_a_kill_during_the_first_write_leaves_a_folder_that_can_be_used(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    temporary_beside(run / "config.json").write_text("{")  # before the rename, config.json does not exist
    assert train(data, run).trained
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".hidden").write_text("")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        train(data, tmp_path / "mine")


def test_files_have_the_permissions_of_the_umask(data: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        train(data, tmp_path / "run", checkpoint_every=1)
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert "model.safetensors" in modes and set(modes.values()) == {"0o640"}, modes


def test_a_full_disk_is_a_message_and_the_run_resumes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train-head", "--data", str(data), *FLAGS, "--output", str(tmp_path / "run")]
    plain = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert mervn([*command, "--checkpoint-every", "0"]) == 1
    message = capsys.readouterr().err
    assert f"error: {tmp_path / 'run' / 'model.safetensors'}: No space left on device" in message
    assert "make room and run the same command again" in message and "Traceback" not in message
    assert list((tmp_path / "run").rglob("*.tmp")) == []
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert mervn(command) == 0


def watched(patch: pytest.MonkeyPatch, check: Any) -> list[int]:
    """Have `check` called after every change to a folder; return how often it was, as the only entry."""
    calls = [0]

    def watch(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            calls[0] += 1
            check()
            return result

        return call

    for name in ("unlink", "rmdir", "rename", "replace"):
        patch.setattr(os, name, watch(getattr(os, name)))
    for name in ("unlink", "rename", "replace"):
        patch.setattr(Path, name, watch(getattr(Path, name)))
    return calls


def test_force_never_leaves_a_complete_run_without_its_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(data, run)

    def check() -> None:
        assert (run / "config.json").is_file()  # else nobody could resume it
        names = ("model.safetensors", "predictions-valid.jsonl", "environment.json")
        assert not (run / "metrics.json").exists() or all((run / name).is_file() for name in names)

    with monkeypatch.context() as patch:
        calls = watched(patch, check)
        assert train(data, run, force=True).trained
    assert calls[0] > 8


def test_force_killed_anywhere_is_repaired_by_the_plain_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(data, tmp_path / "whole", epochs=1)
    for stop in (0, 1, 3, 5):
        run = Path(shutil.copytree(whole.path, tmp_path / f"run-{stop}"))
        count = [0]

        def kill(count: list[int] = count, stop: int = stop) -> None:
            count[0] += 1
            if count[0] == stop + 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            watched(patch, kill)
            with pytest.raises(KeyboardInterrupt):
                train(data, run, epochs=1, force=True)
        train(data, run, epochs=1)
        assert outcome(run) == outcome(whole.path)


def test_force_never_leaves_a_complete_pretraining_without_its_weights(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "encoder"
    monkeypatch.setattr("mervn.pretraining.pretrain.DEFAULTS", SMALL_ENCODER)

    def train_again(force: bool) -> None:
        options = PretrainOptions(output=folder, epochs=1, batch_seconds=2.0, device="cpu", force=force)
        pretrain(options, made)

    train_again(False)

    def check() -> None:
        text = (folder / "pretrain.json").read_text()
        assert '"result"' not in text or (folder / "model.safetensors").is_file()

    with monkeypatch.context() as patch:
        calls = watched(patch, check)
        train_again(True)
    assert calls[0] > 5


def test_temporary_names_differ_within_and_between_processes_of_one_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in every container
    assert len({temporary_beside(tmp_path / "a.json") for _ in range(100)}) == 100


def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomically(tmp_path / "a.json", "before")
    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a.json'"):
        write_atomically(tmp_path / "a.json", "after")
    assert (tmp_path / "a.json").read_text() == "before" and len(list(tmp_path.iterdir())) == 1
