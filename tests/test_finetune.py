"""Training end to end: from the head that stage two found, frozen where it should be, exact after an interruption."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from test_folds import write_folds
from test_train_head import data, made, outcome, train  # noqa: F401
from tiny import (
    Messages,
    make_data,
    make_phobert,
    make_vggish,
    make_wave_transformer,
    make_whisper,
    read_jsonl,
    wave,
    write_manifest,
)
from warm_process import run_warm

from cli.main import run as mervn
from features.encoders.base import load_encoder
from features.encoders.selector import EncoderSettings, parse_selector
from features.errors import InputError, UsageError
from features.extraction.extract import extract_stream
from features.extraction.settings import ExtractSettings
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from mervn.config import EvaluateOptions, FinetuneOptions
from mervn.data.split import count_empty, read_batch
from mervn.data.waveform_split import WaveformSplit
from mervn.evaluation.evaluate import evaluate
from mervn.finetuning.finetune import finetune
from mervn.model.end_to_end import EndToEnd, merge_lora, shapes_of
from mervn.model.head import build_head
from mervn.model.saved_run import load_head
from mervn.run_folder import read_config
from mervn.training.results import RunResult
from mervn.training.trainer import Trainer

CPU = torch.device("cpu")


def tune(head: Path | None, output: Path, **changes: Any) -> RunResult:
    chosen = {"epochs": 2, "batch_size": 8, "workers": 0, "encoder_learning_rate": 1e-3, "learning_rate": 1e-3}
    options = FinetuneOptions(init_head=head, output=output, **{**chosen, **changes})
    return finetune(options, None)


@pytest.fixture(scope="module")
def head(made: Path) -> Path:  # noqa: F811
    return train(made, made.parent / "head").path


@pytest.fixture(scope="module")
def tuned(head: Path) -> Path:
    return tune(head, head.parent / "tuned").path


def test_a_run_goes_on_from_the_head_and_is_evaluated_as_any_other(head: Path, tuned: Path) -> None:
    metrics = json.loads((tuned / "metrics.json").read_text())
    history = read_jsonl(tuned / "history.jsonl")
    assert [entry["epoch"] for entry in history] == [0, 1, 2]
    assert ["train_loss" in entry for entry in history] == [False, True, True]
    assert history[2]["valid"]["nll"] < history[0]["valid"]["nll"]  # losses of training move with draws and dropout
    before = json.loads((head / "metrics.json").read_text())["valid"]
    assert history[0]["valid"]["nll"] == pytest.approx(before["nll"], abs=1e-3)
    assert metrics["valid"]["macro_f1"] >= before["macro_f1"]
    environment = json.loads((tuned / "environment.json").read_text())
    parity = environment["parity"]
    assert parity["logits"] <= 1e-4 and 0 < parity["raw_logits"] < 1e-2 and parity["utterances"] == 10
    assert environment["peak_memory_gb"] > 0
    found = evaluate(tuned, EvaluateOptions(split="valid"))["valid"]
    assert found["nll"] == pytest.approx(metrics["valid"]["nll"], abs=1e-5)
    assert not (tuned / "test_access.jsonl").exists()
    assert set(json.loads((tuned / "check.json").read_text())["splits"]) == {"train", "valid"}
    assert evaluate(tuned, EvaluateOptions(split="test"))["test"]["n"] == 8
    assert (tuned / "test_access.jsonl").exists()


def test_interrupted_and_continued_equals_undisturbed(
    head: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = Trainer._step, [0]

    def stop_in_the_second_epoch(self: Trainer, group: Any, read: Any, seed: Any) -> None:
        steps[0] += 1
        if steps[0] == 5:
            raise KeyboardInterrupt
        original(self, group, read, seed)

    monkeypatch.setattr(Trainer, "_step", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        tune(head, tmp_path / "run", checkpoint_steps=1)
    monkeypatch.undo()
    tune(head, tmp_path / "run", checkpoint_steps=1, workers=2)  # who decodes changes nothing
    assert outcome(tmp_path / "run") == outcome(tuned)
    for name in ("audio", "text"):
        weights = "encoders", name, "model.safetensors"
        assert (tmp_path / "run").joinpath(*weights).read_bytes() == tuned.joinpath(*weights).read_bytes()


KILLED = """
import os, signal, sys, torch
from mervn.config import FinetuneOptions
from mervn.finetuning.finetune import finetune
from mervn.training.trainer import Trainer
plain = Trainer._step
def step(self, group, read, seed):
    plain(self, group, read, seed)
    if seed[1:] == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)
Trainer._step = step
torch.set_num_threads(1)
finetune(FinetuneOptions.model_validate_json(sys.argv[1]), None)
"""


def test_killed_in_mid_epoch_with_everything_on_equals_undisturbed(head: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"spec_time": 0.3, "spec_frequency": 0.3, "drop_text": 0.2, "batch_size": None}
    changes |= {"frame_budget": 250, "checkpoint_steps": 2, "workers": 2, "init_head": head, "output": tmp_path / "run"}
    changes |= {"encoder_learning_rate": 1e-3, "learning_rate": 1e-3, "epochs": 2}
    options = FinetuneOptions(**changes).model_dump_json(exclude_unset=True)
    done = run_warm(KILLED, [options])
    assert done.returncode == -9, done.stderr
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert len(names) == 1 and "-step-" in names[0]
    del changes["init_head"], changes["output"]
    tune(head, tmp_path / "run", **changes)
    whole = tune(head, tmp_path / "whole", **{**changes, "workers": 0})  # who decodes changes nothing
    assert outcome(tmp_path / "run") == outcome(whole.path)
    assert read_jsonl(whole.path / "history.jsonl")[1]["drawn"]["batches"] > 3  # the budget cuts, not a batch size


def test_spec_augment_changes_what_is_trained_on_and_nothing_else(head: Path, tuned: Path, tmp_path: Path) -> None:
    masked = tune(head, tmp_path / "run", spec_time=0.5)
    plain, other = (read_jsonl(run / "history.jsonl") for run in (tuned, masked.path))
    scores = [{k: v for k, v in entry.items() if "seconds" not in k} for entry in (plain[0], other[0])]
    assert scores[0] == scores[1]  # epoch 0 is scored on audio as it is
    assert plain[1]["train_loss"] != other[1]["train_loss"]


def test_two_audio_streams_are_trained_together(tmp_path: Path) -> None:
    small = make_data(tmp_path / "data", {"train": 8, "valid": 4, "test": 1})
    wave, vggish = make_wave_transformer(tmp_path / "w"), make_vggish(tmp_path / "v")
    selector = f"wav2vec2={wave}@1,3+vggish={vggish}"
    stores = ["--features-dir", str(tmp_path / "stores"), "--data", str(small)]
    assert mervn(["extract", *stores, "--audio-encoder", selector]) == 0
    run = train(small, tmp_path / "head", fusion="audio", features_dir=tmp_path / "stores", audio_encoder=selector).path
    result = tune(
        run, tmp_path / "run", epochs=1, features_dir=tmp_path / "stores", unfreeze_last=1, checkpoint_every=0
    )
    environment = json.loads((result.path / "environment.json").read_text())
    assert set(environment["parity"]["features"]) == {"audio", "audio_2"} and environment["parity"]["logits"] <= 1e-4
    assert list(result.metrics["layer_weights"]["audio"]) == ["1", "3"]
    found = evaluate(result.path, EvaluateOptions(split="valid"))["valid"]
    assert found["nll"] == pytest.approx(result.metrics["valid"]["nll"], abs=1e-5)


def test_the_same_again_prints_what_is_there_and_another_is_refused(head: Path, tuned: Path) -> None:
    assert not tune(head, tuned).trained
    with pytest.raises(UsageError, match="layer_decay: existing 0.9, requested 0.5"):
        tune(head, tuned, layer_decay=0.5)


def test_a_flag_against_the_head_is_wrong_usage(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["finetune", "--init-head", str(head), "--output", str(tmp_path / "run")]
    assert mervn([*base, "--fusion", "late", "--audio-encoder", "whisper", "--dim", "16"]) == 2
    message = capsys.readouterr().err
    assert "--fusion: the run has xattn, found late" in message and "--dim" not in message
    assert "--audio-encoder: the run has fourier2vec" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shift", [0.1, float("nan")])
def test_parity_names_the_stage_that_differs(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shift: float,
) -> None:
    run = train(data, tmp_path / "head").path
    original = EndToEnd.encoder

    def moved(self: EndToEnd, stream: str) -> Any:
        found = original(self, stream)
        if stream == "audio" and not hasattr(found, "moved"):
            found.moved = True
            with torch.no_grad():
                found.norm.bias.add_(shift)
        return found

    monkeypatch.setattr(EndToEnd, "encoder", moved)
    with pytest.raises(InputError, match="parity fails at the features: audio differ by"):
        tune(run, tmp_path / "features")
    monkeypatch.undo()
    entries = read_jsonl(data / "valid.jsonl")
    entries[1]["transcript"] = "khác hẳn"
    write_manifest(data / "valid.jsonl", entries)
    with pytest.raises(InputError, match=r"parity fails at the input hash: valid.jsonl:2 'valid-001'"):
        tune(run, tmp_path / "hash")


def make_model(folder: Path, audio: str, text: str) -> EndToEnd:
    encoders = {
        "audio": load_encoder(parse_selector(audio, "audio")),
        "text": load_encoder(parse_selector(text, "text"), EncoderSettings(segmenter="none")),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EndToEnd(encoders, build_head(FinetuneOptions(dim=16, heads=2, mlp=(8,)), shapes_of(encoders), 2))


MODELS = {"own": ("fourier2vec", "hashed_ngrams"), "whisper": ("whisper={}", "phobert={}"),
          "wav2vec2": ("wav2vec2={}", "phobert={}")}  # fmt: skip


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> EndToEnd:
    audio, text = MODELS[request.param]
    if request.param == "whisper":
        audio = audio.format(make_whisper(tmp_path / "whisper"))
    if request.param == "wav2vec2":
        audio = audio.format(make_wave_transformer(tmp_path / "wav2vec2", layerdrop=0.5))
    return make_model(tmp_path, audio, text.format(make_phobert(tmp_path / "phobert") if "{}" in text else ""))


def live(model: EndToEnd, made: Path) -> WaveformSplit:  # noqa: F811
    entries = read_manifests(made, ("valid",))["valid"]
    encoders = {name: model.encoder(name) for name in model.encoders}
    return WaveformSplit("valid", entries, ["happy", "sad"], encoders, 0)


def test_an_utterance_alone_gives_what_it_gives_in_a_batch(model: EndToEnd, made: Path) -> None:  # noqa: F811
    split = live(model, made)
    model.eval()
    with torch.inference_mode():
        together = model(read_batch(split, range(10), CPU).inputs())
        alone = torch.cat([model(read_batch(split, [i], CPU).inputs()) for i in range(10)])
    assert count_empty(split)["text"] == 2
    assert (together - alone).abs().max() < 2e-5
    assert (together - together.roll(1, 0)).abs().max() > 1e-3  # the check can fail


def test_what_is_frozen_has_no_gradient_and_stays_in_eval_mode(model: EndToEnd, made: Path) -> None:  # noqa: F811
    options = FinetuneOptions(unfreeze_last=1, unfreeze_at=2)
    model.choose_trained(options)
    split = live(model, made)
    for epoch in (1, 2):
        model.start_epoch(epoch)
        model.train()
        model.zero_grad(set_to_none=True)
        model(read_batch(split, range(4), CPU).inputs()).square().sum().backward()
        for name in model.encoders:
            encoder = model.encoder(name)
            last = {id(p) for p in encoder.get_blocks()[-1].parameters()} if epoch == 2 else set()
            moved = [n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
            assert all((p.grad is None) == (id(p) not in last) for p in encoder.parameters() if p.requires_grad or last)
            assert bool(moved) == (epoch == 2)
            assert encoder.get_blocks()[-1].training == (epoch == 2)
            frozen = [m for m in encoder.modules() if not all(p.requires_grad for p in m.parameters())]
            assert (epoch == 2 or frozen) and not any(m.training for m in frozen)
    assert all(p.grad is not None for p in model.head.classifier.parameters())


def test_constants_of_the_model_are_never_trained(tmp_path: Path) -> None:
    model = make_model(tmp_path, f"whisper={make_whisper(tmp_path / 'whisper')}", "hashed_ngrams")
    encoder = model.encoder("audio")
    positions = encoder.get_parameter("encoder.embed_positions.weight")  # sinusoids
    assert encoder.constants == {"encoder.embed_positions.weight"} and not model.encoder("text").constants
    everything = FinetuneOptions(train_front_end=True)
    for options in (FinetuneOptions(), everything, FinetuneOptions(unfreeze_last=99), FinetuneOptions(lora_rank=2)):
        model.choose_trained(options)
        model.start_epoch(1)
        trained = {id(p) for some in model.tuned.values() for p in some}
        assert trained and id(positions) not in trained and not positions.requires_grad
    model = make_model(tmp_path, f"whisper={tmp_path / 'whisper'}", "hashed_ngrams")
    model.choose_trained(everything)
    model.start_epoch(1)
    model.train()
    assert model.encoder("audio").get_submodule("encoder").training  # its dropout is that of a trained network


def test_checkpointing_gives_the_same_gradients(model: EndToEnd, made: Path) -> None:  # noqa: F811
    split = live(model, made)
    gradients = []
    for wanted in (False, True):
        options = FinetuneOptions(train_front_end=True, gradient_checkpointing=wanted)
        model.choose_trained(options)
        model.start_epoch(1)
        model.zero_grad(set_to_none=True)
        model.eval()  # no dropout
        model(read_batch(split, range(4), CPU).inputs()).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 20
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)


def test_adapters_are_few_and_merge_into_the_weights(model: EndToEnd, made: Path) -> None:  # noqa: F811
    split = live(model, made)
    options = FinetuneOptions(lora_rank=2)
    model.choose_trained(options)
    model.start_epoch(1)
    model.train()
    names = [n for n, p in model.encoders.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert 0 < model.count()["encoders_trained"] < 0.2 * model.count()["encoders"]
    with torch.no_grad():
        for name, parameter in model.encoders.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.eval()
    with torch.inference_mode():
        adapted = model(read_batch(split, range(4), CPU).inputs())
        merge_lora(model)
        assert not any("lora" in name for name, _ in model.named_parameters())
        torch.testing.assert_close(model(read_batch(split, range(4), CPU).inputs()), adapted, rtol=1e-4, atol=1e-5)


def test_layer_decay_slows_what_is_near_the_input(model: EndToEnd) -> None:
    options = FinetuneOptions(layer_decay=0.5, learning_rate=1e-3, encoder_learning_rate=1e-4)
    model.choose_trained(options)
    scale = {id(p): g["scale"] for g in model.parameter_groups(options) for p in g["params"]}
    for name in model.encoders:
        blocks = model.encoder(name).get_blocks()
        for k, block in enumerate(blocks, 1):
            for parameter in block.parameters():
                assert scale[id(parameter)] == pytest.approx(0.1 * 0.5 ** (len(blocks) - k))
    assert all(scale[id(p)] == 1.0 for p in model.head.parameters())
    trained = {id(p) for some in model.tuned.values() for p in some} | {id(p) for p in model.head.parameters()}
    assert scale.keys() == trained


def test_bad_audio_is_met_before_the_first_epoch(data: Path, tmp_path: Path) -> None:  # noqa: F811
    soundfile.write(data / "train-003.wav", wave(0.5, 0)[:0], 16_000)
    options = {"data": data, "audio_encoder": "fourier2vec@1", "text_encoder": "hashed_ngrams",
               "dim": 16, "mlp": (8,), "epochs": 1}  # fmt: skip
    with pytest.raises(InputError, match=r"train.jsonl:4 'train-003': no_samples"):
        tune(None, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    result = tune(None, tmp_path / "run", allow_missing=True, **options)
    assert result.metrics["missing"] == {"train": 1, "valid": 0}
    (rejected,) = read_jsonl(tmp_path / "run" / "rejected.jsonl")
    assert rejected["utterance_id"] == "train-003"


def test_a_tuned_encoder_extracts_but_not_what_it_saw(tuned: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    for i in range(10):  # those of the tiny data are what train has
        soundfile.write(data / f"valid-{i:03d}.wav", wave(0.4, 100 + i), 16_000)
    selector = parse_selector(f"fourier2vec={tuned}", "audio")
    settings = ExtractSettings(features_dir=tmp_path / "stores")
    entries = read_manifests(data, ("train", "valid"))
    utterances = [u for some in entries.values() for u in some]
    (result,) = extract_stream(utterances, selector, settings, SILENT)
    assert result.encoded == 34
    seen = json.loads((Path(result.path) / "tuned.json").read_text())["seen"]
    assert seen.keys() == {u.utterance_id for u in entries["train"]}
    other = tmp_path / "other"  # the same audio, under another name, as test
    other.mkdir()
    line = read_jsonl(data / "train.jsonl")[2] | {"utterance_id": "new", "wav_path": str(data / "train-002.wav")}
    for split in ("train", "valid", "test"):
        write_manifest(other / f"{split}.jsonl", [line | {"utterance_id": split}])
    strangers = read_manifests(other, ("test",))["test"]
    with pytest.raises(InputError, match=r"was fine-tuned on at least 1 utterances of test: test.jsonl:1 'test'"):
        extract_stream(strangers, selector, settings, SILENT)


def test_the_checkpoint_of_a_real_architecture_is_whole(made: Path, tmp_path: Path) -> None:  # noqa: F811
    whisper = make_whisper(tmp_path / "whisper")
    options = {"data": made, "audio_encoder": f"whisper={whisper}@2", "fusion": "audio", "dim": 16,
               "mlp": (8,), "epochs": 1}  # fmt: skip
    run = tune(None, tmp_path / "run", **options).path
    tuned = load_encoder(parse_selector(f"whisper={run}", "audio"))
    original = load_encoder(parse_selector(f"whisper={whisper}@2", "audio"))
    assert tuned.layers == (2,) and tuned.weights_note == "fine-tuned on 24 utterances, run"
    assert tuned.config == original.config
    changed = {n for n, t in tuned.state_dict().items() if not torch.equal(t, original.state_dict()[n])}
    assert any("layers.1" in name for name in changed) and not any("conv" in name for name in changed)
    with pytest.raises(UsageError, match="was fine-tuned up to layer 2"):
        load_encoder(parse_selector(f"whisper={run}@3", "audio"))
    assert load_head(run, read_config(run)).leads == ("audio",)


def guarded(run: Path, seen: set[str]) -> None:
    """Check that every encoder of a run that can be loaded says what it learned from."""
    for path in run.glob("encoders/*/model.safetensors"):
        name = {"audio": "fourier2vec", "text": "hashed_ngrams"}[path.parent.name]
        try:
            encoder = load_encoder(parse_selector(f"{name}={path.parent}", path.parent.name))
        except InputError:
            continue
        assert encoder.fine_tuning is not None and seen <= encoder.fine_tuning.seen.keys()


def test_no_crash_leaves_tuned_weights_without_what_they_learned_from(
    tuned: Path,
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for i in range(10):  # those of the tiny data are what train has
        soundfile.write(data / f"valid-{i:03d}.wav", wave(0.4, 100 + i), 16_000)
    seen = json.loads((tuned / "encoders" / "audio" / "tuned.json").read_text())["seen"].keys()
    options = {"data": data, "audio_encoder": f"fourier2vec={tuned}", "text_encoder": f"hashed_ngrams={tuned}",
               "dim": 16, "mlp": (8,), "epochs": 1}  # fmt: skip
    run, checks = tmp_path / "run", [0]

    def watch(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            checks[0] += 1
            guarded(run, set(seen))
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", watch(Path.replace))
        patch.setattr("os.unlink", watch(os.unlink))
        for force in (False, True):
            tune(None, run, force=force, **options)
    assert checks[0] > 30
    assert load_encoder(parse_selector(f"fourier2vec={run}", "audio")).fine_tuning is not None
    (run / "encoders" / "audio" / "tuned.json").unlink()
    with pytest.raises(AssertionError):  # the check can fail
        guarded(run, set(seen))


def test_test_that_an_earlier_fine_tuning_saw_is_refused(made: Path, tmp_path: Path) -> None:  # noqa: F811
    data = Path(shutil.copytree(made, tmp_path / "data", copy_function=shutil.copy2))  # noqa: F811
    for split in ("valid", "test"):  # those of the tiny data are what train has
        for i, path in enumerate(sorted(data.glob(f"{split}-*.wav"))):
            soundfile.write(path, wave(0.4, ord(split[0]) * 100 + i), 16_000)
    options = {"dim": 16, "mlp": (8,), "epochs": 1, "fusion": "audio"}
    first = tune(None, tmp_path / "first", data=data, audio_encoder="fourier2vec@1", **options).path
    evaluate(first, EvaluateOptions(split="test", device="cpu"))  # it has not seen its own test
    turned = Path(shutil.copytree(data, tmp_path / "turned", copy_function=shutil.copy2))
    for split, of in (("train", "test"), ("test", "train")):
        shutil.copy(data / f"{of}.jsonl", turned / f"{split}.jsonl")
    second = tune(None, tmp_path / "second", data=turned, audio_encoder=f"fourier2vec={first}", **options).path
    with pytest.raises(InputError, match="was fine-tuned on 24 utterances of test"):
        evaluate(second, EvaluateOptions(split="test", device="cpu"))
    evaluate(second, EvaluateOptions(split="train", device="cpu"))
    evaluate(second, EvaluateOptions(split="valid", device="cpu"))
    with (turned / "train.jsonl").open("a") as file:
        file.write("\n")
    messages = Messages()
    evaluate(second, EvaluateOptions(split="test", device="cpu"), messages)
    assert any("cannot be told from what its encoders have seen" in line for line in messages.said)


def test_a_fold_file_that_was_found_is_recorded(data: Path, tmp_path: Path) -> None:  # noqa: F811
    path = write_folds(data)
    options = {"dim": 16, "mlp": (8,), "epochs": 1, "fusion": "audio", "fold": "1"}
    run = tune(None, tmp_path / "run", data=data, audio_encoder="fourier2vec@1", **options).path
    assert read_config(run).options["fold_file"] == str(path.resolve())
    assert not tune(None, run, data=data, audio_encoder="fourier2vec@1", **options).trained
    assert evaluate(run, EvaluateOptions(split="valid", device="cpu"))["fold"] == 1


def test_the_data_of_the_head_have_priority_over_mervn_toml(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "mervn.toml").write_text('data = "other"\nfeatures-dir = "other"\naudio-root = "other"\n')
    monkeypatch.chdir(tmp_path)
    arguments = ["finetune", "--init-head", str(head), "--epochs", "1", "--device", "cpu", "--output", "run"]
    assert mervn([*arguments, "--workers", "0"]) == 0, capsys.readouterr().err
    assert read_config(tmp_path / "run").options["data"] == read_config(head).options["data"]
    assert mervn([*arguments, "--data", "other"]) == 2
    assert "--data: the run has" in capsys.readouterr().err


def test_adapters_need_no_torchaudio() -> None:
    code = (
        "import features.encoders.fourier2vec as f; from mervn.config import FinetuneOptions;"
        "from mervn.model.end_to_end import _add_lora;"
        "print(len(_add_lora(f.Fourier2Vec({**f.DEFAULTS, 'num_layers': 1}), FinetuneOptions(), 2)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr
