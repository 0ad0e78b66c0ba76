"""The linear baseline: equal to scikit-learn's logistic regression on the time-means, and a run like any other."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.preprocessing import StandardScaler
from test_extract import run as extract
from test_train_head import RESULTS, data, made, outcome
from tiny import make_vggish, make_wave_transformer, read_jsonl, write_manifest
from tiny_extraction import small_encoders

from cli.main import run as mervn
from features.errors import InputError, UsageError
from features.ragged import Ragged
from features.store.reader import FeatureStore
from mervn.config import EvaluateOptions, FinetuneOptions, TrainHeadOptions
from mervn.data.split import Batch, BatchRequest
from mervn.data.streams import StreamShape
from mervn.evaluation.evaluate import evaluate
from mervn.finetuning.finetune import finetune
from mervn.model.head import build_head
from mervn.model.saved_run import load_head
from mervn.registry import FIT_IGNORES, LINEAR_IGNORES
from mervn.run_folder import read_config
from mervn.training.linear_fit import GRID, TOLERANCE, LinearFit, time_means
from mervn.training.results import RunResult
from mervn.training.seeds_and_folds import train_series
from mervn.training.train_head import train_head
from mervn.training.trainer import TrainingData

__all__ = ["data", "made"]  # fixtures
CPU = torch.device("cpu")


def fit(data: Path, output: Path, **changes: Any) -> RunResult:
    return train_head(TrainHeadOptions(fusion="linear", output=output, **changes), data)


def three_classes(data: Path) -> Path:
    """Change the labels to three classes of unequal size."""
    for split in ("train", "valid", "test"):
        entries = read_jsonl(data / f"{split}.jsonl")
        for i, entry in enumerate(entries):
            entry["emotion"] = "angry" if i % 7 in (0, 3) else entry["emotion"]
        write_manifest(data / f"{split}.jsonl", entries)
    return data


def read_means(data: Path, split: str, stores: Sequence[Path]) -> tuple[list[np.ndarray[Any, Any]], list[str]]:
    """Return the time-mean (N, D) of each store, NaN for empty streams, and the labels."""
    entries = read_jsonl(data / f"{split}.jsonl")
    means = []
    for path in stores:
        store = FeatureStore(path)
        frames = [store[entry["utterance_id"]].astype(np.float64) for entry in entries]
        means.append(np.stack([each.mean(0) if len(each) else np.full(store.dim, np.nan) for each in frames]))
    return means, [entry["emotion"] for entry in entries]


def stores_of(data: Path) -> list[Path]:
    return [next((data / "stores" / modality).iterdir()) for modality in ("text", "audio")]


def expected(data: Path, stores: Sequence[Path], strength: float, **changes: Any) -> np.ndarray[Any, Any]:
    """Return probabilities on valid (N, C) of an independent pipeline of scikit-learn."""
    (train, targets), (valid, _) = (read_means(data, split, stores) for split in ("train", "valid"))
    scalers = [StandardScaler().fit(means) for means in train]  # which leaves out NaN
    design, scored = (
        np.nan_to_num(np.hstack([scaler.transform(m) for scaler, m in zip(scalers, means, strict=True)]))
        for means in (train, valid)
    )
    model = LogisticRegression(C=strength, max_iter=5000, tol=1e-9, **changes).fit(design, targets)
    found: np.ndarray[Any, Any] = model.predict_proba(scored)
    return found


def probabilities(run: Path) -> np.ndarray[Any, Any]:
    return np.array([list(entry["probabilities"].values()) for entry in read_jsonl(run / "predictions-valid.jsonl")])


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_run_equals_logistic_regression_and_takes_the_best_strength(
    data: Path, tmp_path: Path, classes: int, class_weights: str
) -> None:
    if classes == 3:
        three_classes(data)
    run = fit(data, tmp_path / "run", class_weights=class_weights)
    weight = {"class_weight": "balanced"} if class_weights == "balanced" else {}
    found, labels = probabilities(run.path), sorted(run.metrics["labels"])
    assert found.shape == (10, classes)
    targets = [entry["emotion"] for entry in read_jsonl(data / "valid.jsonl")]
    scores = []
    for strength, entry in zip(GRID, read_jsonl(run.path / "history.jsonl"), strict=True):
        of_strength = expected(data, stores_of(data), strength, **weight)
        macro_f1 = f1_score(targets, np.array(labels)[of_strength.argmax(1)], average="macro", zero_division=0.0)
        nll = log_loss(targets, of_strength, labels=labels)
        assert entry["C"] == strength and entry["valid"]["macro_f1"] == pytest.approx(macro_f1)
        assert entry["valid"]["nll"] == pytest.approx(nll, abs=1e-5)
        scores.append((macro_f1, -nll))
    assert run.metrics["C"] == GRID[scores.index(max(scores))]
    assert run.metrics["selected_epoch"] == 1 + GRID.index(run.metrics["C"])
    np.testing.assert_allclose(found, expected(data, stores_of(data), run.metrics["C"], **weight), atol=1e-5)
    other = expected(data, stores_of(data), GRID[GRID.index(run.metrics["C"]) - 1], **weight)
    assert np.abs(found - other).max() > 1e-3  # the comparison can fail


def test_an_empty_stream_stands_for_the_mean_of_train(data: Path, tmp_path: Path) -> None:
    run = fit(data, tmp_path / "run").path
    head = load_head(run, read_config(run))
    centre = head.projections["text"].centre
    audio = torch.randn(3, head.projections["audio"].centre.shape[0])
    with torch.no_grad():
        streams = {"audio": Ragged.from_sequences([audio, audio]), "text": Ragged.from_lengths(centre[None], [0, 1])}
        empty, mean = head(streams)
        other = head(streams | {"text": Ragged.from_lengths(2 * centre[None] + 100, [0, 1])})[1]
    assert torch.equal(empty, mean)
    assert (other - mean).abs().max() > 1e-3


def test_two_fits_and_all_seeds_are_equal_and_it_is_evaluated_as_any_run(data: Path, tmp_path: Path) -> None:
    one = fit(data, tmp_path / "one")
    torch.manual_seed(99)
    two = fit(data, tmp_path / "two", memory_gb=0.0)
    assert outcome(one.path) == outcome(two.path)
    assert not fit(data, tmp_path / "one").trained
    assert evaluate(one.path, EvaluateOptions())["valid"] == one.metrics["valid"]
    assert evaluate(one.path, EvaluateOptions(split="test"))["test"]["n"] == 8
    series = train_series(TrainHeadOptions(fusion="linear", num_seeds=2, output=tmp_path / "seeds"), data)
    for name in RESULTS:
        assert (series.runs[1].path / name).read_bytes() == (one.path / name).read_bytes()
    assert series.summary["valid"]["macro_f1"]["std"] == 0


def test_interrupted_and_repeated_equals_undisturbed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, original = fit(data, tmp_path / "whole"), LinearFit._score

    def stop(self: LinearFit, number: int) -> Any:
        if number == 3:
            raise KeyboardInterrupt
        return original(self, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LinearFit, "_score", stop)
        fit(data, tmp_path / "broken")
    assert len(read_jsonl(tmp_path / "broken" / "history.jsonl")) == 2
    with pytest.raises(InputError, match="is not complete"):
        evaluate(tmp_path / "broken", EvaluateOptions())
    assert fit(data, tmp_path / "broken").trained
    assert outcome(tmp_path / "broken") == outcome(whole.path)


def test_an_utterance_has_the_same_time_means_whatever_the_batches() -> None:
    class Cut:
        """Six utterances, read in given batches."""

        name, utterances = "train", ()

        def __init__(self, batches: list[list[int]]) -> None:
            self.plan = batches

        def __len__(self) -> int:
            return 6

        def evaluation_batches(self, device: torch.device) -> list[list[int]]:
            return self.plan

        def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
            sequences = [torch.randn(3 * i, 5, generator=torch.Generator().manual_seed(i)) for i in range(6)]
            for request in plan:
                read = lambda indices: {"audio": Ragged.from_sequences([sequences[i] for i in indices])}  # noqa: E731
                yield Batch(list(request.indices), torch.zeros(len(request.indices)), read)

    splits: list[Any] = [Cut([[0, 1, 2, 3, 4, 5]]), Cut([[5, 2], [0], [1, 4, 3]])]
    together, apart = (time_means(split)["audio"] for split in splits)
    assert np.array_equal(together, apart) and not together[0].any() and together[5].any()


def test_features_that_are_not_finite_are_named() -> None:
    stream = Ragged.from_lengths(torch.tensor([[1.0], [float("inf")]]), [1, 1])
    place = SimpleNamespace(file="train.jsonl", line=2, utterance_id="u2")

    class Faulty:
        utterances = (place, place)

        def __len__(self) -> int:
            return 2

        def evaluation_batches(self, device: torch.device) -> list[list[int]]:
            return [[0, 1]]

        def batches(self, plan: Sequence[BatchRequest], device: torch.device) -> Iterator[Batch]:
            yield Batch([0, 1], torch.zeros(2), lambda indices: {"audio": stream})

    split: Any = Faulty()
    with pytest.raises(InputError, match="train.jsonl:2 'u2': its audio features must be finite"):
        time_means(split)


@pytest.mark.parametrize("present", [(0, 1, 3), (1, 2)])
def test_a_class_without_features_is_never_predicted(present: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    design, targets = rng.normal(size=(40, 3)), np.array([present[i % len(present)] for i in range(40)])
    shapes = {"text": StreamShape(1), "audio": StreamShape(2, stride=320)}
    options = TrainHeadOptions(fusion="linear")
    split: Any = None
    fitted = LinearFit(build_head(options, shapes, 4), TrainingData(split, split, list("abcd")), options, CPU)
    coefficients, bias = fitted._solve(design, targets, 1.0)
    logits = torch.from_numpy(design @ coefficients.T + bias)
    found = logits.softmax(1).numpy()
    reference = LogisticRegression(C=1.0, max_iter=5000, tol=TOLERANCE).fit(design, targets).predict_proba(design)
    np.testing.assert_allclose(found[:, list(present)], reference, atol=1e-9)
    assert found[:, [c for c in range(4) if c not in present]].max() == 0


def test_options_that_the_fit_does_not_read_change_nothing_and_are_refused(data: Path, tmp_path: Path) -> None:
    plain = fit(data, tmp_path / "plain")
    other: dict[str, Any] = {
        "dim": 8, "mlp": (4,), "dropout": 0.5, "input_dropout": 0.5, "missing": "none", "dual_merge": "sum",
        "dual_time": "linear", "pooling": "max", "loss": "ce", "smoothing": 0.3, "tau": 0.5, "sampling": "random",
        "batch_size": 3, "alpha": 0.5, "beta": 1.0, "accumulate": 2, "amp": "bf16", "drop_text": 0.5, "epochs": 2,
        "drop_audio": 0.5, "time_mask": 0.5, "patience": 1, "learning_rate": 0.1, "weight_decay": 0.5, "warmup": 0.5,
        "clip_norm": 9.0, "schedule": "constant", "average_last": 3, "checkpoint_every": 2, "checkpoint_steps": 1,
        "keep_checkpoints": 2, "tensorboard": True, "gamma": 1.0, "heads": 2,
    }  # fmt: skip
    assert {*FIT_IGNORES, *LINEAR_IGNORES} - other.keys() == {"frame_budget"}  # which excludes batch_size
    general = TrainHeadOptions(fusion="linear", **other, output=tmp_path / "general").with_general(other)
    assert outcome(train_head(general, data).path) == outcome(plain.path)
    assert (tmp_path / "general" / "config.json").read_bytes() == (plain.path / "config.json").read_bytes()
    options = read_config(plain.path).options
    assert options["pooling"] == "mean" and not {*FIT_IGNORES, *LINEAR_IGNORES} & options.keys()
    for name, value in other.items():
        if name == "tensorboard" or value != TrainHeadOptions.model_fields[name].default:
            with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: --fusion linear"):
                fit(data, tmp_path / "refused", **{name: value})
    assert fit(data, tmp_path / "mean", pooling="mean").trained


def test_several_layers_and_two_audio_streams_are_concatenated(made: Path, tmp_path: Path) -> None:
    wave, vggish = make_wave_transformer(tmp_path / "w"), make_vggish(tmp_path / "v")
    selector, folder = f"wav2vec2={wave}@1,3+vggish={vggish}", tmp_path / "stores"
    shutil.copytree(made / "stores" / "text", folder / "text")
    assert mervn(["extract", "--features-dir", str(folder), "--data", str(made), "--audio-encoder", selector]) == 0
    run = fit(made, tmp_path / "run", features_dir=folder, audio_encoder=selector)
    names = ["text/*", "audio/wav2vec2-*-L1-*", "audio/wav2vec2-*-L3-*", "audio/vggish-*"]
    stores = [next(folder.glob(name)) for name in names]
    np.testing.assert_allclose(probabilities(run.path), expected(made, stores, run.metrics["C"]), atol=1e-5)
    wrong = expected(made, stores[:-1], run.metrics["C"])
    assert np.abs(probabilities(run.path) - wrong).max() > 1e-4
    assert run.metrics["layer_weights"] == {}


def test_fine_tuning_starts_from_the_fitted_classifier(data: Path, tmp_path: Path) -> None:
    run = fit(data, tmp_path / "run")
    options = {"epochs": 1, "workers": 0, "batch_size": 8, "init_head": run.path, "output": tmp_path / "tuned"}
    tuned = finetune(FinetuneOptions(**options), None)
    history = read_jsonl(tuned.path / "history.jsonl")
    assert history[0]["valid"]["nll"] == pytest.approx(run.metrics["valid"]["nll"], abs=1e-3)
    assert history[1]["train_loss"] > 0 and read_config(tuned.path).options["pooling"] == "mean"
    assert evaluate(tuned.path, EvaluateOptions())["valid"]["n"] == 10
    with pytest.raises(UsageError, match="--mlp: --fusion linear does not read it"):
        finetune(FinetuneOptions(**options, mlp=(256, 128)), None)


def test_train_with_features_of_one_class_is_an_input_error(data: Path, tmp_path: Path) -> None:
    for path in sorted(data.glob("train-*.wav"))[1::2]:  # the happy ones
        path.write_bytes(b"no audio")
    extract(data, small_encoders(tmp_path)[0], update=True)
    with pytest.raises(InputError, match="train must have features of at least two emotions"):
        fit(data, tmp_path / "run", allow_missing=True)


def test_the_command_fits_and_names_the_strength(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train-head", "--data", str(made), "--output", str(tmp_path / "run"), "--fusion", "linear"]
    assert mervn([*command, "--json"]) == 0
    found = capsys.readouterr()
    strength = json.loads((tmp_path / "run" / "metrics.json").read_text())["C"]
    assert "on valid, chance has macro-F1 " in found.err + found.out and "; majority has " in found.err + found.out
    assert f"C {strength}, chosen on valid" in found.err + found.out and "best epoch" not in found.err + found.out
    assert "the mean of train replaces each of them" in found.err
    assert mervn([*command, "--epochs", "3", "--pooling", "cls"]) == 2
    refused = capsys.readouterr().err
    assert "--epochs: --fusion linear" in refused and "--pooling: --fusion linear always pools by the mean" in refused
