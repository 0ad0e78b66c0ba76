"""Imported features: a head learns the same from them as from the store that exported them."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_feature_files import packed, save_hdf5, save_npy, save_zarr
from tiny import make_data, read_jsonl, write_manifest
from tiny_store import IDENTITY, PROVENANCE

from cli.main import run
from features.errors import InputError, UsageError
from features.extraction import import_features as module
from features.extraction.import_features import Imported, import_features
from features.extraction.import_options import StoreImportOptions
from features.progress import SILENT
from features.store.identity import create_store
from features.store.index import encoder_selectors, stored_selectors
from features.store.maintenance import verify
from features.store.reader import FeatureStore
from features.store.writer import StoreWriter
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.data.streams import SECOND, open_streams
from mervn.evaluation.open_run import open_run
from mervn.report.attention_figures import _text_encoder
from mervn.training.train_head import train_head

Array = np.ndarray[Any, Any]
Captured = pytest.CaptureFixture[str]
SMALL: dict[str, Any] = {"dim": 8, "mlp": (4,), "epochs": 1, "fusion": "audio"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `data`, and the features of its utterances in `npy`: float16, 50 Hz, 3 wide."""
    folder = tmp_path_factory.mktemp("import")
    make_data(folder / "data", {"train": 8, "valid": 4, "test": 2})
    save_npy(folder / "npy", arrays(folder / "data"))
    return folder


def arrays(data: Path) -> dict[str, Array]:
    found = {}
    for split in ("train", "valid", "test"):
        for i, line in enumerate(read_jsonl(data / f"{split}.jsonl")):
            values = np.random.default_rng(i).standard_normal((round(50 * (0.3 + 0.05 * (i % 7))), 3))
            found[line["utterance_id"]] = values.astype(np.float16)
    return found


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def take(source: str = "npy", **changes: Any) -> Imported:
    options = StoreImportOptions(**{"modality": "audio", "name": "mine", "hz": 50, **changes})
    return import_features(Path(source), options, Path("data"), SILENT)


def export(imported: Imported, features: dict[str, Array]) -> None:
    """Write a store of whisper with these features, as an extraction from the same inputs would."""
    identity = replace(IDENTITY, layer="last")
    info = create_store(imported.info.path.parent.parent, identity, PROVENANCE, "tiny")
    with StoreWriter(info) as writer:
        for name, values in features.items():
            writer.add([replace(imported.checked.inputs[name], values=values)])


def result(name: str, encoder: str, **changes: Any) -> list[bytes]:
    """Train a head; return its weights and predictions."""
    path = train_head(TrainHeadOptions(**SMALL, audio_encoder=encoder, output=Path(name), **changes), Path("data")).path
    return [(path / file).read_bytes() for file in ("model.safetensors", "predictions-valid.jsonl")]


def test_heads_learn_the_same_as_from_the_store_that_exported_the_features(folder: Path) -> None:
    features = arrays(Path("data"))
    export(take(), features)
    expected = result("exported", "whisper")
    assert result("imported", "mine") == expected
    features["train-000"] = features["train-000"] + np.float16(0.5)  # negative control: another input, another head
    take(str(save_npy(folder / "other", features)), name="other")
    assert result("changed", "other") != expected
    assert run(["evaluate", "imported", "--split", "test"]) == 0
    record = json.loads((folder / "imported" / "config.json").read_text())["models"]["audio"]
    assert record["imported"] == "mine" and record["extract"] == ""


def test_all_forms_give_the_same_store(folder: Path) -> None:
    first, features = take(), arrays(Path("data"))
    store = FeatureStore(first.info.path)
    assert all(np.array_equal(store.check(name), values) for name, values in features.items())
    assert first.written == len(store) == 14 and not verify(store.path, False, lambda _: None).faults
    for source in (save_hdf5(folder / "a.h5", packed(features)), save_zarr(folder / "a.zarr", packed(features))):
        again = take(str(source))
        assert again.info.path == first.info.path and again.written == 0 and not again.others
    assert store.info.identity.config == {"imported": True, "vectors": False, "stride": 320, "centre": 160.0}
    others = [take(name="b"), take(hz=49), take(centre=0.0125), take(store_dtype="fp32"), take(layer=3)]
    assert len({first.info.path, *(other.info.path for other in others)}) == 6
    assert [len(other.others) for other in others] == [0, 1, 2, 3, 0]  # a selector would match several


def test_selectors_of_stored_features_may_be_imported_ones(folder: Path) -> None:
    stores = take().info.path.parent.parent
    assert [one.is_imported for one in stored_selectors("fourier2vec+mine@last", "audio", stores)] == [False, True]
    for text, message in (("mine+nine", "found 'nine'; did you mean mine"), ("wisper", "did you mean whisper")):
        with pytest.raises(UsageError, match=message):
            stored_selectors(text, "audio", stores)
    with pytest.raises(UsageError, match="found 'mine'"):
        stored_selectors("mine", "text", stores)
    assert encoder_selectors("whisper", "audio", stores, "why")[0].name == "whisper"
    with pytest.raises(
        UsageError, match="mine names features that were imported into .*, and why: they have no encoder"
    ):
        encoder_selectors("vggish=/v@1+mine", "audio", stores, "why")
    with pytest.raises(UsageError, match="must have the form"):
        encoder_selectors("whisper+mine", "text", stores, "why")


def test_what_needs_a_text_encoder_does_without_or_is_refused(folder: Path, capsys: Captured) -> None:
    words = {name: values[:2] for name, values in arrays(Path("data")).items()}
    del words["train-004"]  # it has no transcript
    imported = take(str(save_npy(folder / "words", words)), modality="text", name="words", hz=None)
    options = TrainHeadOptions(**{**SMALL, "fusion": "text"}, text_encoder="words", pooling="attn", output=Path("text"))
    train_head(options, Path("data"))
    assert run(["evaluate", "text", "--split", "valid", "--corrupt", "tones"]) == 2
    message = f"{imported.info.path}, but it holds imported features (words): there is no encoder"
    assert message in capsys.readouterr().err
    assert _text_encoder(open_run(Path("text"), EvaluateOptions(split="valid", device="cpu"), SILENT)) is None


def test_an_interrupted_import_resumes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, calls = module.stored_values, [0]
    monkeypatch.setattr(module, "BATCH", 4)

    def interrupted(*arguments: Any) -> Array:
        calls[0] += 1
        if calls[0] == 7:
            raise KeyboardInterrupt
        return stored(*arguments)

    monkeypatch.setattr(module, "stored_values", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take()
    (path,) = Path("data/stores/audio").iterdir()
    assert len(FeatureStore(path)) == 4
    again = take()
    assert again.info.path == path and again.written == 10 and len(FeatureStore(path)) == 14

    def changed(*arguments: Any) -> Array:
        return stored(*arguments) + np.float16(1)

    monkeypatch.setattr(module, "stored_values", changed)
    with pytest.raises(InputError, match="the features of 'test-000' changed during the import"):
        take(name="second")


@pytest.mark.parametrize("name", ["whisper", "phobert", "dual", "a+b", "a=b", "a@b", "1st", "", "x" * 65])
def test_names_that_a_selector_cannot_tell_apart_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--name must begin with a letter"):
        take(name=name)
    assert not Path("data/stores").exists()


def test_options_that_exclude_each_other_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--modality audio\|text and --name NAME must be given"):
        take(modality=None)
    with pytest.raises(ValueError, match="--hz is for audio"):
        StoreImportOptions(modality="text", hz=50)
    with pytest.raises(ValueError, match="--centre needs --hz"):
        StoreImportOptions(modality="audio", centre=1)


def test_vectors_are_a_second_stream_but_no_first_one(folder: Path) -> None:
    features = arrays(Path("data"))
    vectors = {name: values.mean(axis=0, dtype=np.float32) for name, values in features.items()}
    take(str(save_npy(folder / "vectors", vectors)), name="functionals", hz=None)
    take(hz=49.5)  # frames need not start at whole samples
    options = TrainHeadOptions(**SMALL, audio_encoder="mine@last+functionals")
    streams = open_streams(options, Path("data"), ["audio"])
    assert streams[SECOND].shape.layers == ("last",) and streams[SECOND].first["train-000"].shape == (1, 3)
    assert result("alone", "functionals") != result("both", "mine+functionals")
    shapes = json.loads((folder / "both" / "config.json").read_text())["streams"]
    assert shapes["audio"]["stride"] == pytest.approx(16_000 / 49.5) and shapes[SECOND]["width"] == 3
    with pytest.raises(UsageError, match=r"must have frames.*functionals.*exchange the streams: mine.*\+functionals"):
        result("exchanged", "functionals+mine")


def test_layers_of_one_encoder_are_mixed_and_probed(folder: Path, capsys: Captured) -> None:
    features = arrays(Path("data"))
    for layer in (2, 10):
        scaled = {name: values * np.float16(layer) for name, values in features.items()}
        take(str(save_npy(folder / f"layer {layer}", scaled)), layer=layer)
    assert result("mixed", "mine@2,10") != result("one", "mine@2")
    assert run(["layers", "--audio-encoder", "mine", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out.splitlines()[-1])
    assert [score["layer"] for score in document["layers"]] == [2, 10]
    assert f"train with it: --audio-encoder mine@{document['best']}" in captured.err
    take(hz=49, layer=2)
    assert run(["layers", "--audio-encoder", "mine"]) == 2
    assert "several audio stores match mine@2" in capsys.readouterr().err


@pytest.fixture(scope="module")
def with_store(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    shutil.copytree(made, folder, dirs_exist_ok=True, copy_function=shutil.copy2)
    command = ["store", "import", str(made / "npy"), "--modality", "audio", "--name", "mine", "--hz", "50"]
    assert run([*command, "--data", str(folder / "data")]) == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["extract", "--audio-encoder", "mine"], 2, "mine names features that were imported into data/stores, and ext"),
        (["finetune", "--audio-encoder", "mine", "--fusion", "audio"], 2, "and finetune trains encoders: they have no"),
        (["finetune", "--audio-encoder", "nine", "--fusion", "audio"], 2, "must name one of data2vec, fourier2vec"),
        (["train-head", "--audio-encoder", "minn", "--fusion", "audio"], 2, "found 'minn'; did you mean mine?"),
        (["layers", "--audio-encoder", "minn"], 2, "found 'minn'; did you mean mine?"),
        (["train-head", "--audio-encoder", "mine@4", "--fusion", "audio"], 1, "with layer last, wanted 4"),
        (["train-head", "--audio-encoder", "mine=/m", "--fusion", "audio"], 2, "found 'mine'"),
        (["store", "list"], 0, "imported from "),
    ],
)
def test_commands_that_run_encoders_refuse_imported_features(
    with_store: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(with_store)
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err + captured.out and "Traceback" not in captured.err


def test_a_run_with_imported_features_cannot_be_fine_tuned(folder: Path, capsys: Captured) -> None:
    take()
    result("first", "mine")
    assert run(["finetune", "--init-head", "first"]) == 2
    assert "was trained on imported features (mine): there is no encoder to train" in capsys.readouterr().err


def test_changed_inputs_are_noticed_and_the_suggested_command_imports_again(folder: Path, capsys: Captured) -> None:
    lines = read_jsonl(folder / "data" / "train.jsonl")
    texts = arrays(Path("data"))
    for split in ("train", "valid", "test"):
        for line in read_jsonl(folder / "data" / f"{split}.jsonl"):
            if line["transcript"] is None:
                del texts[line["utterance_id"]]
    command = [
        "store",
        "import",
        str(save_npy(folder / "text features", texts)),
        "--modality",
        "text",
        "--name",
        "words",
    ]
    assert run(command) == 0
    assert "11 imported" not in capsys.readouterr().err
    lines[0]["transcript"] = "một câu khác"
    write_manifest(folder / "data" / "train.jsonl", lines)
    train = ["train-head", "--fusion", "text", "--text-encoder", "words", "--epochs", "1", "--dim", "8", "--mlp", "4"]
    assert run([*train, "--output", "a"]) == 1
    message = capsys.readouterr().err
    assert "were made from another transcript: train.jsonl:1 'train-000'" in message
    suggested = next(line for line in message.splitlines() if line.startswith("  mervn store import"))
    (old,) = Path("data/stores/text").iterdir()
    assert run(shlex.split(suggested)[1:]) == 0
    assert f"{old} has the same name" in capsys.readouterr().err
    assert run(["store", "rm", str(old), "--yes"]) == 0
    assert run([*train, "--output", "a"]) == 0


def test_unused_and_missing_features_are_named(folder: Path, capsys: Captured) -> None:
    save_npy(folder / "npy", {"stranger": np.zeros((20, 3), np.float16)})
    (folder / "npy" / "train-001.npy").unlink()
    command = ["store", "import", "npy", "--modality", "audio", "--name", "mine", "--hz", "50", "--json"]
    assert run(command) == 1
    assert "1 have none (the features of stranger have no utterance)" in capsys.readouterr().err
    assert not (folder / "data" / "stores").exists()
    assert run([*command, "--allow-missing"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["imported"], document["missing"], document["unused"]) == (13, ["train-001"], ["stranger"])
    assert run(["train-head", "--fusion", "audio", "--audio-encoder", "mine", "--output", "a"]) == 1
    assert "mervn store import" in capsys.readouterr().err
