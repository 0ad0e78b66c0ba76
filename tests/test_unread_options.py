"""Options that nothing reads: found by what they change, refused if given, and not part of a run's name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train_head import SMALL, data, made, outcome, train

from cli.main import run as mervn
from features.errors import UsageError
from features.ragged import Ragged
from mervn.config import FinetuneOptions, TrainHeadOptions, TrainingOptions
from mervn.data.augmentation import augment
from mervn.data.streams import SECOND, StreamShape
from mervn.model.custom_module import fusion_spec, loss_spec, read_modules
from mervn.model.head import build_head
from mervn.model.losses import balanced_weights, build_loss
from mervn.registry import FUSIONS, LOSSES, SAMPLINGS
from mervn.run_folder import read_config
from mervn.training.sampling import BatchSize, epoch_batches, mixed_lengths, sampling_weights
from mervn.training.train_head import train_head
from mervn.unread_options import unread_options, without_unread

__all__ = ["data", "made"]  # fixtures
OTHER: dict[str, Any] = {
    "heads": 4, "attention_dropout": 0.5, "residual": True, "norm": True, "feed_forward": True, "rnn_layers": 2,
    "rnn_hidden": 8, "blocks": 2, "merge": "gate", "cnn_layers": 1, "kernel": 5, "dilation_growth": 3, "dim": 8,
    "mlp": (4,), "dropout": 0.5, "input_dropout": 0.5, "missing": "none", "dual_merge": "sum", "dual_time": "linear",
    "gamma": 1.0, "smoothing": 0.3, "tau": 0.5, "alpha": 0.0, "beta": 4.0, "drop_text": 0.9, "drop_audio": 0.9,
    "time_mask": 0.9,
}  # fmt: skip
"""Another value of every option of a head and its training that some choice may leave unread, or that none does."""
ALWAYS = {
    "fusion", "pooling", "loss", "sampling", "class_weights", "batch_size", "frame_budget", "accumulate", "amp",
    "epochs", "patience", "learning_rate", "weight_decay", "schedule", "warmup", "clip_norm", "deterministic", "seed",
    "average_last",
}  # fmt: skip
BASE: dict[str, Any] = {"dim": 16, "heads": 2, "mlp": (8,), "rnn_hidden": 4, "dropout": 0.1, "sampling": "both"}
DUAL = "wav2vec2+vggish"


def streams_of(names: tuple[str, ...], dual: bool) -> dict[str, Ragged]:
    torch.manual_seed(1)
    lengths = {"text": [5, 0, 7, 3], "audio": [20, 15, 0, 11], SECOND: [4, 3, 0, 2]}
    wanted = [*names, SECOND] if dual and "audio" in names else names
    return {name: Ragged.from_lengths(torch.randn(sum(lengths[name]), 6), lengths[name]) for name in wanted}


def effects(options: TrainHeadOptions) -> list[Any]:
    """Return all that an option of a head and its training can change: weights, output, loss, batches, inputs."""
    spec, dual = FUSIONS[options.fusion], options.audio_encoder == DUAL
    streams = streams_of(spec.streams, dual)
    shapes = {name: StreamShape(6, stride=320 * (1 + 4 * (name == SECOND)), centre=100.0) for name in streams}
    torch.manual_seed(0)
    head = build_head(options, shapes, 2).train()
    logits, counts = head(streams), torch.tensor([1, 3])
    weights = {name: tensor.tolist() for name, tensor in head.state_dict().items()}
    if spec.linear:  # the fit is tested in test_linear_fit.py
        return [weights, logits.tolist()]
    criterion = build_loss(LOSSES[options.loss], options, balanced_weights(counts), counts)
    rng, count = np.random.default_rng(0), 64
    targets = np.arange(count) % 3 % 2
    seconds = rng.uniform(1, 5, count) * (1 + targets) if "audio" in streams else np.zeros(count)
    syllables = rng.integers(20, 400, count) * (3 - 2 * targets) if "text" in streams else np.zeros(count, int)
    lengths = mixed_lengths(seconds, syllables, options.alpha)
    drawn = sampling_weights(targets, lengths, options.beta)
    cutting = BatchSize(rng.integers(1, 50, (len(streams), count)), utterances=3)
    batches = epoch_batches(options.sampling, lengths, drawn, cutting, 0, 0)
    inputs = augment(streams, options, (0, 0), 4, range(4))
    return [
        weights, logits.tolist(),
        criterion(logits, torch.tensor([0, 1, 1, 0])).item(), batches,
        {name: (stream.sizes, stream.values.tolist()) for name, stream in inputs.items()},
    ]  # fmt: skip


def differing(choice: dict[str, Any], names: set[str]) -> set[str]:
    """Return the options whose other value changes anything."""
    plain = effects(TrainHeadOptions(**{**BASE, **choice}))
    return {n for n in names if effects(TrainHeadOptions(**{**BASE, **choice, n: OTHER[n]})) != plain}


def unread_by(options: TrainingOptions) -> dict[str, str]:
    custom = read_modules(options)
    return unread_options(options, fusion_spec(options.fusion, custom), loss_spec(options.loss, custom))


def unread(choice: dict[str, Any]) -> set[str]:
    return set(unread_by(TrainHeadOptions(**{**BASE, **choice})))


@pytest.mark.parametrize("dual", [False, True], ids=["one audio stream", "two"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_exactly_the_options_without_effect_are_unread(fusion: str, dual: bool) -> None:
    choice = {"fusion": fusion, "audio_encoder": DUAL if dual else "wav2vec2"}
    assert differing(choice, set(OTHER)) == set(OTHER) - unread(choice)


def test_fine_tuning_reads_the_options_of_training_for_a_linear_head() -> None:
    found = set(unread_by(FinetuneOptions(fusion="linear")))
    assert {"dim", "mlp", "dropout", "missing", "pooling", "heads"} <= found
    assert not found & {"loss", "gamma", "sampling", "epochs", "learning_rate", "drop_text", "average_last"}


def test_a_single_layer_is_not_dilated() -> None:
    choice = {"fusion": "cnn_bilstm_attn", "cnn_layers": 1}
    assert differing(choice, {"kernel", "dilation_growth"}) == {"kernel"}
    assert unread(choice) - unread({"fusion": "cnn_bilstm_attn"}) == {"dilation_growth"}


@pytest.mark.parametrize("field", ["sampling", "loss"])
def test_each_sampling_and_loss_reads_what_it_says(field: str) -> None:
    names = {"alpha", "beta", "gamma", "smoothing", "tau"}
    for name in {"sampling": SAMPLINGS, "loss": LOSSES}[field]:
        assert differing({field: name}, names) == names - unread({field: name})


def test_every_option_is_in_these_tests() -> None:
    assert OTHER.keys() | ALWAYS == TrainingOptions.model_fields.keys()


def test_fine_tuning_leaves_unread_what_it_does_not_train(tmp_path: Path) -> None:
    def of(**changes: Any) -> set[str]:
        return set(unread_by(FinetuneOptions(**changes))) - set(unread_by(FinetuneOptions()))

    frozen = {"encoder_learning_rate", "layer_decay", "unfreeze_at", "gradient_checkpointing", "lora_rank"}
    assert of(unfreeze_last=0) == frozen | {"train_front_end"}
    assert of(unfreeze_last=1) == of(lora_rank=2) == {"train_front_end"}
    assert of(init_head=tmp_path) == {"segmenter", "tone_style", "whisper_mode"}
    assert {"spec_time", "spec_frequency", "whisper_mode"} <= of(fusion="text")
    assert {"segmenter", "tone_style"} <= of(fusion="audio")
    assert "features_dir" in unread_by(FinetuneOptions())
    assert "features_dir" not in unread_by(FinetuneOptions(init_head=tmp_path))


def test_a_class_of_a_file_reads_the_options_it_names(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nclass F(nn.Module):\n    options = ('blocks',)\n    streams = ('text',)\n"
        "class L(nn.Module):\n    options = ('alpha',)\n"
    )
    found = unread({"fusion": f"{tmp_path / 'mine.py'}:F", "loss": f"{tmp_path / 'mine.py'}:L", "sampling": "random"})
    assert {"merge", "drop_audio", "gamma"} <= found and not found & {"blocks", "heads", "alpha", "drop_text"}


def test_what_nothing_reads_is_reset(tmp_path: Path) -> None:
    options = TrainHeadOptions(fusion="audio", drop_audio=0.5, drop_text=0.5, blocks=3)
    other = options.model_copy(update={"drop_text": 0.1, "blocks": 2})
    assert without_unread(options, unread_by(options)) == without_unread(other, unread_by(other))


ARGUMENTS = ["--dim", "16", "--mlp", "8", "--epochs", "1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fusion", "late", "--blocks", "3", "--merge", "gate"], "--blocks: --fusion late does not read it"),
        (["--fusion", "text", "--heads", "2"], "--heads: --fusion text has no attention"),
        (["--loss", "ce", "--gamma", "1"], "--gamma: --loss ce does not read it"),
        (["--loss", "ce", "--tau", "1"], "--tau: --loss ce does not read it"),
        (["--fusion", "linear"], "--epochs: --fusion linear is fitted by logistic regression"),
        (["--fusion", "linear", "--pooling", "attn"], "--pooling: --fusion linear always pools by the mean"),
        (["--fusion", "linear", "--tensorboard"], "--tensorboard: --fusion linear is fitted by logistic regression"),
        (["--sampling", "random", "--beta", "1"], "--beta: --sampling random does not read it"),
        (["--dual-time", "linear"], "--dual-time: the head has no second audio stream"),
        (["--fusion", "text", "--time-mask", "0.2"], "--time-mask: --fusion text does not read audio"),
        (
            ["--fusion", "text", "--audio-encoder", "fourier2vec=/nowhere@7"],
            "--audio-encoder: --fusion text does not read a",
        ),
        (["--fusion", "text", "--audio-store", "nowhere"], "--audio-store: --fusion text does not read audio"),
        (["--fusion", "audio", "--text-store", "nowhere"], "--text-store: --fusion audio does not read text"),
        (["--fusion", "late", "--blocks", "1"], "--blocks: --fusion late does not read it"),  # the default, but given
    ],
)
def test_an_option_without_effect_is_wrong_usage(
    made: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train-head", "--data", str(made), "--output", str(tmp_path / "run"), *ARGUMENTS, *flags]
    assert mervn(command) == 2
    found = capsys.readouterr().err
    assert "these options have no effect here; leave them out:" in found and message in found
    assert not (tmp_path / "run").exists()


def test_a_general_default_that_does_not_apply_is_no_part_of_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train-head", "--data", str(data), *ARGUMENTS, "--fusion", "late", "--json"]
    runs = []
    for general in ("", "[train-head]\nblocks = 3\nheads = 3\ndrop-text = 0.0\n", "[train-head]\nblocks = 2\n"):
        Path("mervn.toml").write_text(general)
        assert mervn(command) == 0
        runs.append(json.loads(capsys.readouterr().out.splitlines()[-1])["run"])
    assert len(set(runs)) == 1
    options = read_config(Path(runs[0])).options
    assert not {"blocks", "heads", "merge"} & options.keys() and options["drop_text"] == 0.0
    assert mervn([*command, "--config", f"{runs[0]}/config.json"]) == 0  # what a run writes is taken back
    Path("mine.json").write_text('{"blocks": 3}')
    capsys.readouterr()
    assert mervn([*command, "--config", "mine.json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run"] == runs[0]


def test_a_choice_beside_the_configuration_of_a_run_leaves_out_what_it_does_not_read(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mervn(["train-head", "--data", str(made), *ARGUMENTS, "--heads", "2", "--output", "first"]) == 0
    assert mervn(["train-head", "--config", "first/config.json", "--fusion", "late", "--output", "late"]) == 0
    assert "heads" not in read_config(Path("late")).options
    assert mervn(["train-head", "--config", "first/config.json", "--fusion", "late", "--heads", "2"]) == 2
    assert "--heads: --fusion late has no attention" in capsys.readouterr().err


def test_an_unread_default_changes_no_number(data: Path, tmp_path: Path) -> None:
    options = SMALL | {"fusion": "audio", "drop_audio": 0.5}
    plain = train(data, tmp_path / "plain", **options)
    general = TrainHeadOptions(**options, drop_text=0.9, output=tmp_path / "general").with_general(["drop_text"])
    assert outcome(train_head(general, data).path) == outcome(plain.path)
    with pytest.raises(UsageError, match="--drop-text: --fusion audio does not read text"):
        train(data, tmp_path / "given", **options, drop_text=0.9)


def test_a_general_encoder_of_a_stream_that_is_not_read_is_no_part_of_the_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train-head", "--data", str(made), *ARGUMENTS, "--fusion", "text", "--output"]
    assert mervn([*command, "plain"]) == 0
    Path("mervn.toml").write_text('[train-head]\naudio-encoder = "nothing"\naudio-store = "nowhere"\n')
    assert mervn([*command, "general"]) == 0
    assert read_config(Path("general")).as_json() == read_config(Path("plain")).as_json()
    assert not {"audio_encoder", "audio_store"} & read_config(Path("plain")).options.keys()


def test_fine_tuning_refuses_the_encoder_of_a_stream_that_is_not_read(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "--data", str(made), "--output", str(tmp_path / "run"), "--fusion", "audio"]
    assert mervn([*command, "--audio-encoder", "fourier2vec", "--text-encoder", "hashed_ngrams"]) == 2
    assert "--text-encoder: --fusion audio does not read text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["pretrain-audio", "--features-dir", "x"], ["store", "convert", "x", "--retry-rejected"]]
)
def test_a_command_has_no_option_that_it_does_not_read(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert mervn(flags) == 2
    assert "No such option" in capsys.readouterr().err
