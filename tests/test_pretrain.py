"""Pretraining lowers the loss, does not leak masked frames, is repeatable and can be resumed after a kill."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_extract import run as extract
from tiny import make_data, read_jsonl, wave

from cli.main import run as command_line
from features.command_lines import DataPlace
from features.encoders.base import load_encoder
from features.encoders.fourier2vec import DEFAULTS, Fourier2Vec
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from features.extraction import segment_hashes
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from features.ragged import Ragged
from features.store.index import select_store
from features.store.reader import FeatureStore
from mervn.config import PretrainOptions
from mervn.pretraining.log_mel_cache import read_frames
from mervn.pretraining.masked_frames import MaskedFrames, draw_positions, l1_sums, normalize_visible
from mervn.pretraining.pretrain import PretrainResult, pretrain
from mervn.pretraining.pretrainer import Pretrainer, learning_rate_at
from mervn.training.checkpoint import load_checkpoint, save_checkpoint

SMALL = {**DEFAULTS, "dim": 32, "num_layers": 2, "position_kernel": 15, "position_groups": 4}
QUICK: dict[str, Any] = {"epochs": 2, "batch_seconds": 2.0, "device": "cpu"}


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mervn.pretraining.pretrain.DEFAULTS", SMALL)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture
def model() -> Iterator[MaskedFrames]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield MaskedFrames(Fourier2Vec(SMALL)).eval()


def train(data: Path, output: Path, **changes: Any) -> PretrainResult:
    options = PretrainOptions(**{**QUICK, "output": output, **changes})
    return pretrain(options, data)


def content(folder: Path) -> dict[str, Any]:
    """Return what must be equal in two runs: the bytes of the files, and the history without its seconds."""
    found: dict[str, Any] = {
        name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors", "pretrain.json")
    }
    history = read_jsonl(folder / "history.jsonl")
    for entry in history:
        del entry["seconds"], entry["seconds_left"]
    return {**found, "history": history}


def test_pretraining_lowers_the_validation_loss_and_keeps_the_best_epoch(data: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path / "out", epochs=10, learning_rate=5e-3).result
    history = [entry["valid"] for entry in read_jsonl(tmp_path / "out" / "history.jsonl")]
    assert history[-1]["l1"] < 0.98 * history[0]["l1"]
    assert len({entry["mean_l1"] for entry in history}) == 1  # the masks of valid never change
    assert result["valid"] == history[result["selected_epoch"] - 1] == min(history, key=lambda entry: entry["l1"])
    assert result["valid"]["ratio"] == result["valid"]["l1"] / result["valid"]["mean_l1"]


def test_the_folder_is_an_encoder_with_weights_of_its_own(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "out")
    encoder = load_encoder(parse_selector(f"fourier2vec={tmp_path / 'out'}", "audio"))
    assert not encoder.is_random
    assert encoder.weights_note == "pretrained, masked frames, 0.0029 h of data"
    assert encoder.model_name == "out"
    assert encoder.weights_sha256 != load_encoder(parse_selector("fourier2vec", "audio")).weights_sha256
    stored = extract(data, f"fourier2vec={tmp_path / 'out'}", features_dir=tmp_path / "stores")
    store = FeatureStore(stored.path)
    assert store.info.provenance["weights"] == encoder.weights_note
    assert store["train-000"].shape == (14, 32)


@pytest.mark.parametrize("num_mel", [0, 1, 3, 4, 5, 13, 28, 200, 1001])
def test_masks_cover_something_and_at_most_half(num_mel: int) -> None:
    for seed in range(20):
        positions = draw_positions(np.random.default_rng(seed), num_mel, 0.2, 7)
        assert len(positions) <= num_mel // 4
        assert (len(positions) > 0) == (num_mel >= 4)
        assert (2 * positions + 1 < num_mel).all() and (positions.diff() > 0).all()
    first, second = (draw_positions(np.random.default_rng(seed), 1001, 0.05, 7) for seed in (0, 1))
    assert len(first) >= 7 and not torch.equal(first, second)


def predict(model: MaskedFrames, samples: np.ndarray[Any, Any], hidden: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    mel = model.encoder.raw_log_mel(Ragged.from_sequences([torch.from_numpy(samples)]))
    with torch.inference_mode():
        prediction, target = model(mel, Ragged.from_sequences([torch.tensor(hidden)]))
    return prediction, target


def test_masked_frames_do_not_leak_into_their_prediction(model: MaskedFrames) -> None:
    samples, first, last = wave(1.0, 0), 10, 17
    hidden = list(range(first, last))
    changed = samples.copy()
    begin, end = 320 * first + 240, 320 * last  # samples that only masked windows cover
    changed[begin:end] += wave(1.0, 9, pitch=900.0)[begin:end]
    before, after = predict(model, samples, hidden), predict(model, changed, hidden)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=0.1)
    changed[begin - 1] += 0.5  # negative control: one sample in a visible window
    assert not torch.equal(before[0], predict(model, changed, hidden)[0])


def test_an_utterance_has_the_same_loss_alone_and_in_a_batch(model: MaskedFrames) -> None:
    rng = np.random.default_rng(0)
    waves = [torch.from_numpy(wave(seconds, i)) for i, seconds in enumerate((0.06, 0.5, 2.0, 0.3, 1.1))]
    mels = [model.encoder.raw_log_mel(Ragged.from_sequences([samples])).values for samples in waves]
    positions = [draw_positions(rng, len(mel), 0.1, 7) for mel in mels]

    def losses(indices: list[int]) -> torch.Tensor:
        mel = Ragged.from_sequences([mels[i] for i in indices])
        hidden = Ragged.from_sequences([positions[i] for i in indices])
        with torch.inference_mode():
            prediction, target = model(mel, hidden)
        return l1_sums(prediction, target, hidden)

    together = losses([0, 1, 2, 3, 4])
    for i in range(5):
        torch.testing.assert_close(losses([i])[0], together[i], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(losses([4, 0, 2])[1:], together[[0, 2]], atol=2e-5, rtol=2e-5)
    assert not torch.allclose(together[1], together[2])


def test_only_visible_frames_normalize_and_silence_stays_finite() -> None:
    mel = torch.randn(20, 3) * 4 + 2
    normal, visible = normalize_visible(Ragged.from_sequences([mel]), torch.arange(4, 10))
    seen = torch.cat([mel[:4], mel[10:]])
    torch.testing.assert_close(normal, (mel - seen.mean(0)) / seen.std(0, correction=0))
    assert visible.sum() == 14
    silent = torch.full((20, 3), -13.8)
    silent[5] = 5.0
    assert normalize_visible(Ragged.from_sequences([silent]), torch.arange(4, 10))[0].abs().max() < 200


def test_the_same_command_twice_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "a")
    train(data, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    train(data, tmp_path / "c", seed=1)
    assert content(tmp_path / "a")["model.safetensors"] != content(tmp_path / "c")["model.safetensors"]


class KilledError(Exception):
    """Simulates a kill."""


@pytest.fixture(scope="module")
def uninterrupted(small: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    train(data, folder, epochs=4)
    return content(folder)


@pytest.mark.parametrize("place", ["batch", "_save", "validate"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    data: Path, uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    real, calls = getattr(Pretrainer, place), []

    def killed(self: Pretrainer, *args: Any) -> Any:
        calls.append(place)
        if len(calls) > (2 if place != "batch" else 20):
            raise KilledError
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, place, killed)
        with pytest.raises(KilledError):
            train(data, tmp_path / "killed", epochs=4)
    assert (tmp_path / "killed" / "checkpoints").is_dir()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert train(data, tmp_path / "killed", epochs=4).trained
    assert content(tmp_path / "killed") == uninterrupted


def test_a_complete_result_is_printed_again_and_another_configuration_is_rejected(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(data), "--output", str(tmp_path / "out"), "--device", "cpu", "--batch-seconds", "2"]
    assert command_line(["pretrain-audio", *flags, "--epochs", "2", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    before = content(tmp_path / "out")
    assert command_line(["pretrain-audio", *flags, "--epochs", "2", "--json"]) == 0
    captured = capsys.readouterr()
    second = json.loads(captured.out.splitlines()[-1])
    assert "complete already" in captured.err
    assert (first["trained"], second["trained"]) == (True, False)
    assert first["result"] == second["result"] and content(tmp_path / "out") == before
    assert command_line(["pretrain-audio", *flags, "--epochs", "3"]) == 2
    assert "epochs: existing 2, requested 3" in capsys.readouterr().err
    assert command_line(["pretrain-audio", *flags, "--epochs", "2", "--force", "--json"]) == 0
    third = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert third["trained"] and third["result"] == first["result"]
    document = json.loads(before["pretrain.json"])
    assert document["options"]["mask_span"] == 5 and document["versions"]["torch"]
    assert document["inputs"]["manifests"].keys() == {"train", "valid"}


def test_a_complete_result_is_of_the_present_audio(data: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(data, tmp_path / "data"))
    (own / "train-003.wav").write_bytes(b"no audio")
    out = tmp_path / "out"
    assert train(own, out, epochs=1).trained
    before = content(out)
    shutil.copy(own / "train-000.wav", own / "kept")
    for path in own.glob("*.wav"):
        os.utime(path, (1, 1))
    assert not train(own, out, epochs=1).trained  # only touched
    touched = content(out)
    assert touched.pop("pretrain.json") != before.pop("pretrain.json") and touched == before
    decoded: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_hashes, "segment_sha256", lambda *segment: decoded.append(segment))
        assert not train(own, out, epochs=1).trained and not decoded  # and remembered
    soundfile.write(own / "train-000.wav", soundfile.read(own / "train-000.wav")[0][::-1], 16_000)
    with pytest.raises(InputError, match="the audio of train has changed since the encoder in .*out was pretrained; p"):
        train(own, out, epochs=1)
    shutil.copy(own / "kept", own / "train-000.wav")
    assert not train(own, out, epochs=1).trained
    shutil.copy(own / "kept", own / "train-003.wav")  # rejected before
    with pytest.raises(InputError, match="for example that of 'train-003'"):
        train(own, out, epochs=1)
    (own / "train-003.wav").write_bytes(b"still no audio")
    assert not train(own, out, epochs=1).trained
    (own / "valid-001.wav").write_bytes(b"no audio any more")
    with pytest.raises(InputError, match="audio of valid has changed .* that of 'valid-001'"):
        train(own, out, epochs=1)
    assert train(own, out, epochs=1, force=True).trained


def test_minutes_end_the_training(data: Path, tmp_path: Path) -> None:
    result = train(data, tmp_path / "out", epochs=None, minutes=0.005).result
    assert result["epochs"] >= 1 and result["steps"] >= 1
    assert (
        learning_rate_at(0.05, 0.1, 1.0) == 0.5
        and learning_rate_at(0.1, 0.1, 1.0) == 1.0
        and learning_rate_at(1.0, 0.1, 1.0) < 1e-9
    )


def test_long_utterances_are_cropped(data: Path, tmp_path: Path, model: MaskedFrames) -> None:
    long = make_data(tmp_path / "long", {"train": 2, "valid": 1, "test": 1})
    soundfile.write(long / "train-000.wav", wave(3.0, 0), 16_000)
    frames, _ = read_frames(read_manifests(long, ("train",))["train"], model.encoder, tmp_path / "f", SILENT)
    trainer = Pretrainer(model, frames, frames, PretrainOptions(max_seconds=1.0), torch.device("cpu"))
    (first, _), (again, _), (other, _) = (trainer.batch(frames, [0, 1], epoch) for epoch in (0, 0, 1))
    assert first.sizes == (100, frames.sizes[1])
    assert torch.equal(first.values, again.values) and not torch.equal(first.values, other.values)


def test_unreadable_audio_is_skipped_counted_and_listed(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    (data / "train-003.wav").write_bytes(b"no audio")
    result = train(data, tmp_path / "out", epochs=1).result
    assert result["rejected"] == 1 and result["utterances"] == {"train": 23, "valid": 10}
    (entry,) = read_jsonl(tmp_path / "out" / "rejected.jsonl")
    assert (entry["utterance_id"], entry["reason"], entry["line"]) == ("train-003", "unreadable", 4)


def test_errors_have_messages(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no pretrained encoder"):
        train(data, tmp_path / "other")
    with pytest.raises(ValueError, match="give epochs or minutes, not both, found epochs=3 minutes=1.0"):
        PretrainOptions(epochs=3, minutes=1.0)
    with pytest.raises(InputError, match=r"data folder .* does not exist"):
        train(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "pretrain.json").write_text("{")
    with pytest.raises(InputError, match=r"pretrain\.json must hold a pretraining, but cannot be read"):
        train(data, tmp_path / "damaged")
    train(data, tmp_path / "changed", epochs=1)
    document = json.loads((tmp_path / "changed" / "pretrain.json").read_text())
    for damaged in ({"weights": None}, {"selected_epoch": "1"}, {"valid": {"l1": 1.0}}):
        result = {**document["result"], **damaged}
        if result["weights"] is None:
            del result["weights"]
        (tmp_path / "changed" / "pretrain.json").write_text(json.dumps({**document, "result": result}))
        with pytest.raises(
            InputError, match=r"pretrain\.json must describe a pretraining, but cannot be read: \w+Error"
        ):
            train(data, tmp_path / "changed", epochs=1)
    del document["result"]
    (tmp_path / "changed" / "pretrain.json").write_text(json.dumps(document))
    import soundfile

    soundfile.write(data / "train-000.wav", wave(0.3, 77), 16_000)
    with pytest.raises(InputError, match="it has changed since; pass --force"):
        train(data, tmp_path / "changed", epochs=1)
    for path in data.glob("train-*.wav"):
        path.write_bytes(b"no audio")
    with pytest.raises(
        InputError, match=r"train.jsonl must hold audio of at least 55 ms, found no usable utterance.*rejected.jsonl"
    ):
        train(data, tmp_path / "none")


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[], Pretrainer]]:
    """A folder with a checkpoint, and a function that makes a trainer which can resume from it."""
    folder = tmp_path_factory.mktemp("stopped")
    utterances = read_manifests(data, ("valid",))["valid"]
    frames, _ = read_frames(utterances, Fourier2Vec(SMALL), folder / "frames", SILENT)

    def make() -> Pretrainer:
        with torch.random.fork_rng():
            options = PretrainOptions(epochs=1, checkpoint_every=1)
            return Pretrainer(MaskedFrames(Fourier2Vec(SMALL)), frames, frames, options, torch.device("cpu"))

    make().fit(folder)
    return folder, make


def damaged(state: dict[str, Any], tensors: dict[str, torch.Tensor], how: str) -> None:
    """Damage the content of a checkpoint, of which every file can still be read."""
    kind, _, key = how.partition(" ")
    if kind == "without":
        for name in [name for name in tensors if name.startswith(key)]:
            del tensors[name]
        state.pop(key, None)
    elif kind == "text":
        state[key] = "x"
    else:
        tensors |= {name: tensor[None] for name, tensor in tensors.items() if name.startswith(key) and tensor.ndim}


@pytest.mark.parametrize(
    "how",
    ["without audio", "without best", "without best.", "without model.", "text next_epoch", "text spent_s",
     "shape optimizer.", "shape model.", "shape best."],
)  # fmt: skip
def test_a_damaged_checkpoint_has_one_message(
    stopped: tuple[Path, Callable[[], Pretrainer]], tmp_path: Path, how: str
) -> None:
    """Regression test: these were a KeyError, a TypeError and a RuntimeError of torch, or went unnoticed."""
    folder, make = stopped
    trainer = make()
    trainer.fit(folder)  # negative control: as it was written, it is loaded
    assert trainer.next_epoch == 1 and trainer.best.weights
    (checkpoint,) = (folder / "checkpoints").iterdir()
    loaded = load_checkpoint(checkpoint)
    tensors, state = dict(loaded.tensors), dict(loaded.state)
    damaged(state, tensors, how)
    save_checkpoint(tmp_path / "checkpoints" / checkpoint.name, tensors, state)
    with pytest.raises(InputError, match=rf"{checkpoint.name} must be a complete checkpoint, .*again with --force"):
        make().fit(tmp_path)


def test_a_non_finite_loss_is_an_error(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pretrainer, "validate", lambda self: (float("inf"), 1.0))
    with pytest.raises(InputError, match=r"the losses must be finite, found 0\.\d+ on train and inf on valid"):
        train(data, tmp_path / "run")


def test_a_name_without_folder_selects_the_random_encoder_not_a_pretrained_one(data: Path, tmp_path: Path) -> None:
    folder = train(data, tmp_path / "mine", epochs=1).path
    random, pretrained = (
        extract(data, name, features_dir=tmp_path / "stores") for name in ("fourier2vec", f"fourier2vec={folder}")
    )
    place = DataPlace(data, tmp_path / "stores")
    for text, expected in (("fourier2vec", random), (f"fourier2vec={folder}", pretrained)):
        assert str(select_store(place, "audio", parse_selector(text, "audio"), None).path) == expected.path
    with pytest.raises(InputError, match="several audio stores match no selector"):
        select_store(place, "audio", None, None)
