"""A run: the same twice, exact after an interruption, blind to the test split."""

import hashlib
import json
import multiprocessing
import shutil
import signal
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_extract import run as extract
from tiny import Recorder, read_jsonl, wave, write_manifest
from tiny_extraction import small_encoders
from warm_process import WarmProcess, run_warm

from features.errors import InputError, UsageError
from features.manifests.manifest import Manifests, read_manifests
from features.progress import SILENT, Silent
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.data.split import Batch, read_batch
from mervn.data.stored_split import load_split
from mervn.data.streams import open_streams
from mervn.evaluation.evaluate import evaluate
from mervn.evaluation.ledger import Look, record_look
from mervn.model.losses import build_loss
from mervn.model.saved_run import load_head
from mervn.run_folder import locked, read_config
from mervn.training.checkpoint import CheckpointSchedule
from mervn.training.optimization import learning_rate, resolve_amp
from mervn.training.results import RunResult
from mervn.training.seeds_and_folds import train_series
from mervn.training.train_head import train_head
from mervn.training.trainer import Trainer

SMALL: dict[str, Any] = {"dim": 16, "mlp": (8,), "epochs": 4, "batch_size": 8, "dropout": 0.3}
RESULTS = ("metrics.json", "model.safetensors", "predictions-valid.jsonl")


@pytest.fixture(scope="module")
def made(tiny_features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the extracted data folder, with its encoders beside it, which knows no other place."""
    folder = tmp_path_factory.mktemp("corpus")
    shutil.copytree(tiny_features, folder, copy_function=shutil.copy2, dirs_exist_ok=True)
    for file in folder.glob("data/stores/*/*/store.json"):
        file.write_text(file.read_text("utf-8").replace(str(tiny_features), str(folder)), "utf-8")
    return folder / "data"


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data", copy_function=shutil.copy2))


def train(data: Path, output: Path, **changes: Any) -> RunResult:
    options = TrainHeadOptions(**{**SMALL, "output": output, **changes})
    return train_head(options, data)


def test_a_run_holds_what_it_should(data: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path / "run")
    run = result.path
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics == result.metrics
    assert metrics["labels"] == ["happy", "sad"]
    assert metrics["valid"]["n"] == 10 and metrics["valid"]["missing"] == 0
    assert metrics["features"]["audio"] == "random, seed 0"
    history = read_jsonl(run / "history.jsonl")
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert metrics["valid"]["macro_f1"] == max(entry["valid"]["macro_f1"] for entry in history)
    predictions = read_jsonl(run / "predictions-valid.jsonl")
    assert list(predictions[0]) == ["utterance_id", "speaker_id", "label", "prediction", "probabilities", "take"]
    assert predictions[0]["speaker_id"] == "valid-speaker-0"
    assert [p["utterance_id"] for p in predictions] == [f"valid-{i:03d}" for i in range(10)]
    assert predictions[3]["take"] == 3 and predictions[3]["label"] == "happy"
    assert all(abs(sum(p["probabilities"].values()) - 1) < 1e-9 for p in predictions)
    right = sum(p["label"] == p["prediction"] for p in predictions)
    assert metrics["valid"]["accuracy"] == pytest.approx(right / 10)
    environment = json.loads((run / "environment.json").read_text())
    assert {"versions", "machine", "inputs", "stores", "seconds"} <= environment.keys()
    assert metrics["selected_epoch"] in (1, 2, 3, 4) and not (run / "checkpoints").exists()
    assert metrics["empty"] == {"train": {"audio": 0, "text": 4}, "valid": {"audio": 0, "text": 2}}


def test_the_same_command_twice_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "one")
    torch.manual_seed(1234)  # what happened before in the process does not count
    np.random.default_rng().random()
    train(data, tmp_path / "two")
    for name in RESULTS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    train(data, tmp_path / "other", seed=1)
    assert (tmp_path / "one" / RESULTS[1]).read_bytes() != (tmp_path / "other" / RESULTS[1]).read_bytes()


def test_training_leaves_the_global_generator_alone(data: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    train(data, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)


def outcome(run: Path) -> list[object]:
    """Return everything a run must be equal in."""
    history = read_jsonl(run / "history.jsonl")
    for entry in history:
        del entry["seconds"], entry["loader_seconds"]
    return [*((run / name).read_bytes() for name in RESULTS), history]


@pytest.mark.parametrize("sampling", ["random", "bucket", "weighted", "both"])
def test_interrupted_and_continued_equals_undisturbed(
    data: Path, tmp_path: Path, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, tmp_path / "whole", sampling=sampling)
    original, count = Trainer.train_epoch, [0]

    def stop_in_the_third(self: Trainer, epoch: int, checkpoints: Path, saving: CheckpointSchedule) -> float:
        count[0] += 1
        loss = original(self, epoch, checkpoints, saving)
        if count[0] == 3:
            raise KeyboardInterrupt  # the third epoch is done, and not yet saved
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "broken", sampling=sampling)
    assert not (tmp_path / "broken" / "metrics.json").exists()
    assert train(data, tmp_path / "broken", sampling=sampling).trained
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from mervn.config import TrainHeadOptions
from mervn.training.train_head import train_head
from mervn.training.trainer import Trainer
plain, count = Trainer._step, [0]
def step(self, group, read, seed):
    plain(self, group, read, seed)
    count[0] += 1
    if count[0] == {stop}:
        os.kill(os.getpid(), signal.SIGKILL)
Trainer._step = step
options = TrainHeadOptions.model_validate_json(sys.argv[1])
torch.set_num_threads(options.threads)
train_head(options, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("sampling", ["random", "bucket", "weighted", "both"])
def test_killed_in_mid_epoch_and_resumed_equals_undisturbed(data: Path, tmp_path: Path, sampling: str) -> None:
    changes = {"sampling": sampling, "batch_size": 3, "checkpoint_steps": 2, "drop_text": 0.2, "time_mask": 0.3}
    changes |= {"drop_audio": 0.2, "accumulate": 2, "threads": torch.get_num_threads(), "keep_checkpoints": 2}
    train(data, tmp_path / "whole", **changes)
    options = TrainHeadOptions(**{**SMALL, **changes, "output": tmp_path / "broken"})
    killed = run_warm(KILLED.format(stop=8), [options.model_dump_json(exclude_unset=True), str(data)])
    assert killed.returncode == -9, killed.stderr
    names = sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir())
    assert names[-1].startswith("epoch-00002-step-") and len(names) == 2
    assert train(data, tmp_path / "broken", **changes).trained
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("stop", [8, 11])
def test_a_signal_saves_the_step_it_comes_in(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    changes = {"sampling": "both", "batch_size": 3}
    train(data, tmp_path / "whole", **changes)
    original, count = Trainer._step, [0]

    def step(self: Trainer, group: Sequence[Sequence[int]], read: Iterator[Batch], seed: tuple[int, ...]) -> None:
        count[0] += 1
        if count[0] == stop:
            signal.raise_signal(signal.SIGINT)
        original(self, group, read, seed)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "broken", **changes)
    signal.signal(signal.SIGINT, before)
    (checkpoint,) = (tmp_path / "broken" / "checkpoints").iterdir()
    assert checkpoint.name == {8: "epoch-00001-step-000008", 11: "epoch-00002-step-000003"}[stop]  # of 8 an epoch
    assert train(data, tmp_path / "broken", **changes).trained
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_accumulated_batches_are_one_step(data: Path, tmp_path: Path, class_weights: str) -> None:
    entries = read_jsonl(data / "train.jsonl")
    write_manifest(
        data / "train.jsonl", [entry | {"emotion": "happy" if i % 4 else "sad"} for i, entry in enumerate(entries)]
    )
    plain = {"sampling": "random", "batch_size": 8, "dropout": 0.0, "loss": "ce", "amp": "off", "epochs": 2}
    plain["class_weights"] = class_weights
    one = train(data, tmp_path / "one", **plain)
    two = train(data, tmp_path / "two", **{**plain, "batch_size": 4}, accumulate=2)
    losses = [[e["train_loss"] for e in read_jsonl(r.path / "history.jsonl")] for r in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)  # the same draws, cut finer


def test_history_tells_what_was_drawn(data: Path, tmp_path: Path) -> None:
    for sampling, full in (("bucket", True), ("both", False)):
        entry = read_jsonl(train(data, tmp_path / sampling, sampling=sampling).path / "history.jsonl")[0]["drawn"]
        assert all(0.5 < share <= 1 for share in entry["padding_efficiency"].values())
        assert sum(entry["classes"].values()) == pytest.approx(1)
        assert (entry["covered"] == 1) == full and entry["covered"] > 0.4


def test_several_seeds_share_the_features_and_are_summed_up(data: Path, tmp_path: Path) -> None:
    options = TrainHeadOptions(**SMALL, output=tmp_path / "seeds", seed=3, num_seeds=3)
    result = train_series(options, data)
    scores = [run.metrics["valid"]["macro_f1"] for run in result.runs]
    found = json.loads((tmp_path / "seeds" / "summary.json").read_text())["valid"]["macro_f1"]
    assert found["values"] == scores and found["mean"] == pytest.approx(np.mean(scores))
    assert found["std"] == pytest.approx(np.std(scores, ddof=1))
    alone = train(data, tmp_path / "alone", seed=4)
    assert outcome(alone.path) == outcome(tmp_path / "seeds" / "seed-4")
    assert (alone.path / "config.json").read_bytes() == (tmp_path / "seeds" / "seed-4" / "config.json").read_bytes()


def test_a_seed_of_a_series_is_found_by_that_seed_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    series = train_series(TrainHeadOptions(**SMALL, seed=7, num_seeds=2), data)
    alone = train_head(TrainHeadOptions(**SMALL, seed=8), data)
    assert not alone.trained and alone.path == series.runs[1].path
    assert train_head(TrainHeadOptions(**SMALL, seed=9), data).trained


def test_labels_are_renamed_left_out_and_counted(data: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        entries = read_jsonl(data / f"{split}.jsonl")
        for number, entry in enumerate(entries):
            entry["emotion"] = {0: "joy", 1: "noise"}.get(number % 5, entry["emotion"])
        write_manifest(data / f"{split}.jsonl", entries)
    changes = {"label_map": ("joy=happy",), "drop_label": ("noise",), "labels": ("happy", "sad")}
    result = train(data, tmp_path / "run", **changes)
    assert result.metrics["labels"] == ["happy", "sad"]
    assert result.metrics["dropped"] == {"train": {"noise": 5}, "valid": {"noise": 2}}
    assert result.metrics["valid"]["n"] == 8
    scores = evaluate(result.path, EvaluateOptions(split="test"))
    assert scores["dropped"] == {"test": {"noise": 2}} and scores["test"]["n"] == 6
    with pytest.raises(InputError, match=r"train.jsonl:2 'noise'.*leave them out with --drop-label"):
        train(data, tmp_path / "a", labels=("happy", "sad"), label_map=("joy=happy",))
    with pytest.raises(UsageError, match="--label-map must be old=new"):
        train(data, tmp_path / "b", label_map=("joy",))
    with pytest.raises(UsageError, match=r"--drop-label must name .*found \['Hapy'\]; did you mean happy\?"):
        train(data, tmp_path / "c", drop_label=("Hapy",))


def test_two_modalities_need_both(data: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        entries = [{**entry, "transcript": None} for entry in read_jsonl(data / f"{split}.jsonl")]
        write_manifest(data / f"{split}.jsonl", entries)
    extract(data, small_encoders(tmp_path)[1], update=True)
    with pytest.raises(UsageError, match="--fusion xattn needs text, but none of the 24 utterances .* --fusion audio"):
        train(data, tmp_path / "run")
    assert train(data, tmp_path / "audio", fusion="audio").trained


def test_precision_follows_the_machine(data: Path, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    auto = resolve_amp("auto", cpu)
    assert auto in ("off", "bf16") and resolve_amp("off", cpu) == "off"
    with pytest.raises(UsageError, match="--amp fp16 needs a GPU, found cpu"):
        train(data, tmp_path / "fp16", amp="fp16")
    assert read_config(train(data, tmp_path / "auto").path).options["amp"] == auto
    full, half = (train(data, tmp_path / amp, amp=amp, epochs=1) for amp in ("off", "bf16"))
    losses = [read_jsonl(run.path / "history.jsonl")[0]["train_loss"] for run in (full, half)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_complete_run_is_kept_another_configuration_refused_and_force_trains_again(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = train(data, run)
    evaluate(run, EvaluateOptions(split="test"))
    before = (run / "model.safetensors").stat().st_mtime_ns
    again = train(data, run)
    assert not again.trained and again.metrics == first.metrics
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"another configuration(.|\n)*dropout: existing 0.3, requested 0.4"):
        train(data, run, dropout=0.4)
    assert train(data, run, force=True).trained
    assert not (run / "metrics-test.json").exists()
    assert len(read_jsonl(run / "test_access.jsonl")) == 1  # the looks at test are never forgotten


def test_the_hash_of_a_manifest_is_of_what_was_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hashlib.sha256((data / "valid.jsonl").read_bytes()).hexdigest()

    def read(*arguments: Any, **options: Any) -> Manifests:
        found = read_manifests(*arguments, **options)
        write_manifest(data / "valid.jsonl", read_jsonl(data / "valid.jsonl")[:-1])  # edited right after
        return found

    monkeypatch.setattr("mervn.training.setup.read_manifests", read)
    assert read_config(train(data, tmp_path / "run").path).inputs["manifests"]["valid"] == before


def test_changed_data_is_another_configuration(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run")
    entries = read_jsonl(data / "train.jsonl")
    entries[0]["emotion"] = "happy"
    write_manifest(data / "train.jsonl", entries)
    with pytest.raises(UsageError, match="inputs.manifests.train"):
        train(data, tmp_path / "run")


def test_the_test_split_is_never_read(data: Path, tmp_path: Path) -> None:
    (data / "test.jsonl").write_text("this is no manifest")
    train(data, tmp_path / "run")
    (data / "test.jsonl").unlink()
    assert train(data, tmp_path / "other").trained


def test_neither_audio_nor_hub_is_needed(data: Path, tmp_path: Path) -> None:
    for path in data.glob("*.wav"):
        path.unlink()
    assert train(data, tmp_path / "run").trained


def test_a_look_at_test_is_recorded_in_the_run_and_beside_the_data(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    first = evaluate(run, EvaluateOptions(split="test"))
    assert first["test_looks"] == 1
    assert len(read_jsonl(run / "test_access.jsonl")) == len(read_jsonl(data / "test_access.jsonl")) == 1
    assert len(read_jsonl(run / "predictions-test.jsonl")) == 8
    assert json.loads((run / "metrics-test.json").read_text())["test"]["n"] == 8
    valid = evaluate(run, EvaluateOptions())
    assert "test" not in valid and len(read_jsonl(data / "test_access.jsonl")) == 1
    stored = json.loads((run / "metrics.json").read_text())["valid"]
    assert valid["valid"] == stored


def test_the_same_look_at_test_is_counted_once_and_any_other_anew(data: Path, tmp_path: Path) -> None:
    look = EvaluateOptions(split="test")
    run = train(data, tmp_path / "run").path
    first, again = (evaluate(run, look) for _ in range(2))
    assert (first["test_looks"], again["test_looks"]) == (1, 1) and first["test"] == again["test"]
    other = train(data, tmp_path / "other", seed=1).path
    assert evaluate(other, look)["test_looks"] == 2
    entries = read_jsonl(data / "test.jsonl")
    write_manifest(data / "test.jsonl", entries[:-1])
    assert evaluate(run, look)["test_looks"] == 3  # other data
    (run / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert evaluate(run, look)["test_looks"] == 4  # other weights
    assert len(read_jsonl(data / "test_access.jsonl")) == 4 and len(read_jsonl(run / "test_access.jsonl")) == 3
    (data / "test_access.jsonl").write_text("half a li")  # damaged: it counts as one look, and hides no other
    assert evaluate(run, look)["test_looks"] == 2
    (data / "test_access.jsonl").write_text("[" * 100_000 + "\n")
    assert evaluate(run, look)["test_looks"] == 2


def test_looks_of_two_evaluations_at_once_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look, plain = Look("0", "1", "2"), Look.is_in

    def slow(self: Look, ledger: Path) -> bool:
        found = plain(self, ledger)
        time.sleep(0.05)  # the other looks too, before this one writes
        return found

    monkeypatch.setattr(Look, "is_in", slow)
    with ThreadPoolExecutor(4) as pool:
        for run in [tmp_path / "one", tmp_path / "two"] * 2:
            run.mkdir(exist_ok=True)
            (tmp_path / "data").mkdir(exist_ok=True)
            pool.submit(record_look, run, tmp_path / "data", look, SILENT)
    assert len(read_jsonl(tmp_path / "data" / "test_access.jsonl")) == 1
    assert len(read_jsonl(tmp_path / "one" / "test_access.jsonl")) == 1


def test_a_data_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    recorder = Recorder()
    (tmp_path / "run").mkdir()
    assert record_look(tmp_path / "run", tmp_path / "nowhere", Look("0", "1", "2"), recorder) == 1
    assert recorder.lines[0].startswith("warning: the look at the test split could not be recorded in")


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for kind in ("metrics", "predictions") for path in run.glob(f"{kind}*.json*")}


def test_scores_of_other_inputs_replace_nothing(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    for split in ("valid", "test"):
        evaluate(run, EvaluateOptions(split=split))
    before = results(run)
    assert len(before) == 5
    other = Path(shutil.copytree(data, tmp_path / "other", copy_function=shutil.copy2))
    assert evaluate(run, EvaluateOptions(data=other))["valid"]["n"] == 10
    assert results(run) == before  # equal inputs, wherever they lie
    for split in ("valid", "test"):
        write_manifest(other / f"{split}.jsonl", read_jsonl(other / f"{split}.jsonl")[:4])
        recorder = Recorder()
        found = evaluate(run, EvaluateOptions(data=other, split=split), recorder)
        (name,) = {path.name for path in run.glob(f"metrics-{split}-*.json")}
        assert (
            found[split]["n"] == 4
            and str(run / name) in recorder.lines[-1]
            and len(name) == len(f"metrics-{split}-.json") + 8
        )
        entries = read_jsonl(run / f"{name.removesuffix('.json').replace('metrics', 'predictions')}.jsonl")
        assert len(entries) == 4
    assert results(run).items() >= before.items() and len(results(run)) == 9


def test_scores_without_some_utterances_are_those_of_test_and_no_others_of_valid(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    before = results(run)
    for split in ("valid", "test"):
        entries = read_jsonl(data / f"{split}.jsonl")
        write_manifest(data / f"{split}.jsonl", [*entries, {**entries[0], "utterance_id": f"{split}-new"}])
        evaluate(run, EvaluateOptions(split=split, allow_missing=True))
    assert results(run).items() >= before.items()  # training has not seen this valid
    assert len(list(run.glob("metrics-valid-*.json"))) == 1
    assert json.loads((run / "metrics-test.json").read_text())["test"]["missing"] == 1
    assert not list(run.glob("metrics-test-*.json"))


def test_labels_that_only_look_different_are_one_or_refused(data: Path, tmp_path: Path) -> None:
    def rename(split: str, names: dict[int, str]) -> None:
        entries = read_jsonl(data / f"{split}.jsonl")
        for number, entry in enumerate(entries):
            entry["emotion"] = names.get(
                number, {"happy": "vui vẻ", "sad": "buồn"}.get(entry["emotion"], entry["emotion"])
            )
        write_manifest(data / f"{split}.jsonl", entries)

    nfd = unicodedata.normalize("NFD", "buồn")
    rename("train", {0: nfd, 1: " vui vẻ "})
    rename("valid", {})
    rename("test", {})
    run = train(data, tmp_path / "one", labels=(nfd, " vui vẻ"))
    assert run.metrics["labels"] == ["buồn", "vui vẻ"]
    assert not train(data, tmp_path / "one", labels=("buồn", "vui vẻ")).trained  # the same options
    rename("valid", {3: "Vui  vẻ"})
    with pytest.raises(
        InputError, match=r"valid.jsonl:4: emotion 'Vui  vẻ' looks the same as 'vui vẻ' in train.jsonl:2;"
    ):
        train(data, tmp_path / "two")
    merged = train(data, tmp_path / "three", label_map=("Vui  vẻ=vui vẻ",))
    assert merged.metrics["labels"] == ["buồn", "vui vẻ"]
    assert train(data, tmp_path / "four", drop_label=("Vui  vẻ",)).metrics["dropped"]["valid"] == {"Vui  vẻ": 1}
    rename("test", dict.fromkeys(range(8), "Buồn"))
    for trained in (run, merged):  # with --labels and without
        with pytest.raises(InputError, match="'Buồn' looks the same as 'buồn'"):
            evaluate(trained.path, EvaluateOptions(split="test"))
    with pytest.raises(ValueError, match="--labels: 'Buồn' only looks different from 'buồn'"):
        TrainHeadOptions(labels=("buồn", "Buồn"))


def test_features_of_another_transcript_are_refused(data: Path, tmp_path: Path) -> None:
    entries = read_jsonl(data / "valid.jsonl")
    entries[2]["transcript"] = "đã sửa"
    write_manifest(data / "valid.jsonl", entries)
    with pytest.raises(InputError, match=r"valid: the text features of 1 .*valid.jsonl:3 'valid-002'.*\n.*--update"):
        train(data, tmp_path / "run")
    assert train(data, tmp_path / "audio", fusion="audio").trained


@pytest.mark.parametrize("change", ["end", "file"])
def test_features_of_other_audio_are_refused(data: Path, tmp_path: Path, change: str) -> None:
    entries = read_jsonl(data / "train.jsonl")
    if change == "end":
        entries[2]["end"] = 0.2
    else:
        soundfile.write(data / "train-002.wav", wave(0.4, 77), 16_000)
    write_manifest(data / "train.jsonl", entries)
    with pytest.raises(InputError, match=r"train: the audio features of 1 .*train.jsonl:3 'train-002'"):
        train(data, tmp_path / "run")


def test_utterances_without_features_are_refused_or_counted(data: Path, tmp_path: Path) -> None:
    entries = read_jsonl(data / "valid.jsonl")
    entries.append({**entries[0], "utterance_id": "valid-new"})
    write_manifest(data / "valid.jsonl", entries)
    with pytest.raises(InputError, match=r"valid: 1 utterances(.|\n)*'valid-new'(.|\n)*--allow-missing"):
        train(data, tmp_path / "run")
    metrics = train(data, tmp_path / "run", allow_missing=True).metrics
    assert (metrics["valid"]["n"], metrics["valid"]["missing"]) == (10, 1)
    assert metrics["missing"] == {"train": 0, "valid": 1}


@pytest.mark.parametrize("found_by", ["header", "decoding"])
def test_utterances_changed_to_audio_that_was_rejected_are_missing(data: Path, tmp_path: Path, found_by: str) -> None:
    (data / "valid-002.wav").write_bytes(b"no audio")
    if found_by == "decoding":
        soundfile.write(data / "valid-002.wav", np.full(8000, np.nan, np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match="--update"):
        train(data, tmp_path / "run")
    extract(data, small_encoders(tmp_path)[0], update=True)  # rejects the new file, and keeps the entry of the old one
    with pytest.raises(
        InputError, match=r"valid: 1 utterances (.|\n)*valid.jsonl:3 'valid-002' in .*rejected: "
    ) as found:
        train(data, tmp_path / "run")
    assert "mervn extract" not in str(found.value) and "--allow-missing" in str(found.value)
    run = train(data, tmp_path / "run", allow_missing=True)
    assert (run.metrics["valid"]["n"], run.metrics["valid"]["missing"]) == (9, 1)
    assert "valid-002" not in {entry["utterance_id"] for entry in read_jsonl(run.path / "predictions-valid.jsonl")}
    soundfile.write(data / "valid-002.wav", np.zeros(8000, np.float32), 16_000)  # it can be extracted again
    with pytest.raises(InputError, match="--update"):
        train(data, tmp_path / "other")


def test_empty_streams_without_a_token_are_warned_about(data: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="text streams are empty"):
        train(data, tmp_path / "run", missing="none", epochs=1)


def test_contradictions_are_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--pooling cls"):
        train(data, tmp_path / "run", fusion="audio", pooling="cls")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        train(data, tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="found a file"):
        train(data, tmp_path / "file")
    assert not (tmp_path / "run").exists()


def test_one_label_is_not_enough(data: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        entries = [{**entry, "emotion": "sad"} for entry in read_jsonl(data / f"{split}.jsonl")]
        write_manifest(data / f"{split}.jsonl", entries)
    with pytest.raises(InputError, match="at least two emotions, found sad"):
        train(data, tmp_path / "run")


def test_a_loss_that_is_no_number_stops(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the loss must be finite, found nan; lower --learning-rate"):
        train(data, tmp_path / "run", learning_rate=1e30, clip_norm=1e30)


def test_early_stopping_stops(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", epochs=40, patience=2, learning_rate=1e-12)
    history = read_jsonl(tmp_path / "run" / "history.jsonl")
    best = history[-1]["best_epoch"]
    assert len(history) == best + 2 < 40


def test_a_damaged_run_is_named(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    (run / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"model.safetensors must hold the weights"):
        load_head(run, read_config(run))
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match="is not complete"):
        evaluate(run, EvaluateOptions(split="test"))
    with pytest.raises(UsageError, match="must be the folder of a run"):
        evaluate(tmp_path / "nowhere", EvaluateOptions(split="test"))


HOLDS = """
import sys, time
from pathlib import Path
from mervn.run_folder import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_share_a_run(data: Path, tmp_path: Path) -> None:
    other = WarmProcess(HOLDS, [str(tmp_path / "run")])
    try:
        assert other.readline() == "locked\n"
        with pytest.raises(InputError, match="is being written by another process"):
            train(data, tmp_path / "run")
    finally:
        other.kill()
        other.finish()


def test_worker_of_a_killed_process_does_not_hold_its_folder(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    worker = fork.Process(target=lambda: ready.set() or done.wait())
    with locked(tmp_path / "run"):
        worker.start()
        assert ready.wait(60)
    try:
        with locked(tmp_path / "run"):
            assert worker.is_alive()
    finally:
        done.set()
        worker.join()


def test_batches_hold_the_stored_rows(data: Path) -> None:
    from features.manifests.manifest import read_manifests

    options = TrainHeadOptions(**SMALL)
    stores = open_streams(options, data, ("audio", "text"))
    entries = read_manifests(data, ("train",))["train"]
    split = load_split("train", entries, stores, ["happy", "sad"])
    streams = read_batch(split, [5, 4, 5], torch.device("cpu")).inputs()
    for name, stream in streams.items():
        for found, i in zip(stream.split(), (5, 4, 5), strict=True):
            np.testing.assert_array_equal(found.numpy(), stores[name].first[entries[i].utterance_id].astype(np.float32))
    assert split.syllables[4] == 0 and split.syllables[0] == 5
    assert split.audio_seconds[0] == pytest.approx(0.3)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, 100, 0.1, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01
    assert learning_rate(99, 100, 0.1, 1.0, "constant") == 1.0


def test_a_frame_budget_trains_and_resumes_exactly(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"batch_size": None, "frame_budget": 160, "sampling": "both"}
    whole = train(data, tmp_path / "whole", **changes)
    history = read_jsonl(whole.path / "history.jsonl")
    assert len({entry["drawn"]["batches"] for entry in history}) > 1  # epochs differ in length
    assert all(entry["learning_rate"] <= 5e-4 for entry in history)
    original = Trainer.train_epoch

    def stop(self: Trainer, epoch: int, checkpoints: Path, saving: CheckpointSchedule) -> float:
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch, checkpoints, saving)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "broken", **changes)
    assert train(data, tmp_path / "broken", **changes).trained
    assert outcome(tmp_path / "broken") == outcome(whole.path)
    with pytest.raises(ValueError, match="give --batch-size or --frame-budget, found both: 8 and 900"):
        train(data, tmp_path / "both", frame_budget=900)
    assert read_config(train(data, tmp_path / "usual", batch_size=None).path).options["batch_size"] == 32


def test_tensorboard_shows_the_history(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(data, tmp_path / "run", tensorboard=True).path
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    history = read_jsonl(run / "history.jsonl")
    for tag, key in (("valid/macro_f1", "macro_f1"), ("valid/nll", "nll")):
        assert [e.value for e in events.Scalars(tag)] == pytest.approx([entry["valid"][key] for entry in history])
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert outcome(train(data, tmp_path / "plain").path) == outcome(run)
    assert not train(data, tmp_path / "plain", tensorboard=True).trained  # complete: written from its history
    late = EventAccumulator(str(tmp_path / "plain" / "tensorboard"))
    late.Reload()
    for tag in events.Tags()["scalars"]:
        assert [(e.step, e.value) for e in late.Scalars(tag)] == [(e.step, e.value) for e in events.Scalars(tag)]
    files = len(list((tmp_path / "plain" / "tensorboard").iterdir()))
    train(data, tmp_path / "plain", tensorboard=True)
    assert len(list((tmp_path / "plain" / "tensorboard").iterdir())) == files == 1


def stopped(data: Path, run: Path, epoch: int, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Train, and interrupt the training at the end of an epoch, before it is scored."""
    original = Trainer.train_epoch

    def stop(self: Trainer, number: int, checkpoints: Path, saving: CheckpointSchedule) -> float:
        loss = original(self, number, checkpoints, saving)
        if number == epoch:
            raise KeyboardInterrupt
        return loss

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "train_epoch", stop)
        train(data, run, **changes)


def steps(run: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [e.step for e in events.Scalars("train/loss")]


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "resumed"])
def test_tensorboard_shows_the_epochs_that_ran_without_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool
) -> None:
    run = tmp_path / "run"
    stopped(data, run, 2, monkeypatch, tensorboard=True)
    assert steps(run) == [1]
    if not complete:
        stopped(data, run, 4, monkeypatch)
        assert train(data, run, tensorboard=True).trained
    else:
        assert train(data, run).trained
        assert not train(data, run, tensorboard=True).trained
    assert steps(run) == [1, 2, 3, 4]


@pytest.mark.parametrize("how", ["gone", "cut", "a line too few", "another thing"])
def test_a_damaged_history_is_named(data: Path, tmp_path: Path, how: str) -> None:
    run = train(data, tmp_path / "run", epochs=3).path
    path = run / "history.jsonl"
    text = path.read_text()
    path.write_text({"cut": text[:-20], "another thing": "[]\n3\n"}.get(how, "".join(text.splitlines(True)[::2])))
    if how == "gone":
        path.unlink()
    with pytest.raises(InputError, match=r"history.jsonl must hold the history of the run"):
        train(data, run, epochs=3, tensorboard=True)


def test_tensorboard_that_is_not_there_is_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"mervn\[tensorboard\]"):
        train(data, tmp_path / "run", tensorboard=True)


def test_deterministic_holds_while_training_and_no_longer(data: Path, tmp_path: Path) -> None:
    seen = []

    class Watch(Silent):
        def epoch(self, entry: Mapping[str, Any]) -> None:
            seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32))

    train_head(TrainHeadOptions(**SMALL, deterministic=True, output=tmp_path / "run"), data, Watch())
    Watch().epoch({})
    assert seen[-5:] == [(True, False)] * 4 + [(False, True)]


def test_logit_adjustment_trains_with_the_priors_of_train(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "valid"):
        entries = read_jsonl(data / f"{split}.jsonl")
        write_manifest(
            data / f"{split}.jsonl",
            [entry | {"emotion": "sad" if i % 6 else "happy"} for i, entry in enumerate(entries)],
        )
    plain = train(data, tmp_path / "ce", loss="ce", sampling="bucket")
    adjusted = {"loss": "logit_adjustment", "sampling": "bucket"}
    assert outcome(train(data, tmp_path / "zero", **adjusted, tau=0.0).path) == outcome(plain.path)
    losses = []

    def keep(*arguments: Any) -> torch.nn.Module:
        losses.append(build_loss(*arguments))
        return losses[-1]

    monkeypatch.setattr("mervn.training.trainer.build_loss", keep)
    run = train(data, tmp_path / "one", **adjusted)
    priors = torch.tensor([4 / 24, 20 / 24])  # happy, sad
    torch.testing.assert_close(losses[0].adjustment, priors.log())
    assert outcome(run.path)[1] != outcome(plain.path)[1]
    assert read_config(run.path).options["tau"] == 1.0 and "tau" not in read_config(plain.path).options
    with pytest.raises(UsageError, match=r"corrects the class frequencies already(.|\n)*--sampling both"):
        train(data, tmp_path / "twice", loss="logit_adjustment")
    assert not (tmp_path / "twice").exists()
