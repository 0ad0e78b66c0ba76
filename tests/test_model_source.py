"""A selector finds the stores of its model: by the files of a folder, or by the exact hub id or path."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_data, make_vggish, make_wave_transformer, make_whisper
from tiny_store import IDENTITY

from cli.main import run
from features.encoders import model_source
from features.encoders.hub import find_weights
from features.encoders.model_source import fingerprint
from features.errors import InputError
from features.store.identity import StoreInfo
from features.store.index import list_stores
from features.store.models import describe_models, recorded_models, recorded_selector

Captured = pytest.CaptureFixture[str]
FAST = ["--fusion", "audio", "--epochs", "1", "--dim", "16", "--mlp", "8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and two models in folders of one base name, both extracted."""
    folder = tmp_path_factory.mktemp("models")
    make_data(folder / "data", {"train": 8, "valid": 6, "test": 4})
    for number, name in enumerate(("exp1", "exp2", "exp3")):
        make_whisper(folder / name / "checkpoint-500", seed=number)
    for name in ("exp1", "exp2"):
        assert extract(folder, f"whisper={folder}/{name}/checkpoint-500") == 0
    return folder


def extract(folder: Path, audio: str, *arguments: str) -> int:
    return run(["extract", "--data", str(folder / "data"), "--audio-encoder", audio, *arguments])


def train(folder: Path, output: Path, *arguments: str) -> int:
    return run(["train-head", "--data", str(folder / "data"), *FAST, "--output", str(output), *arguments])


def store_of(folder: Path, output: Path) -> Path:
    config = json.loads((output / "config.json").read_text())
    (wanted,) = config["inputs"]["stores"]["audio"]
    (info,) = [info for info in list_stores(folder / "data" / "stores", "audio") if info.hash == wanted]
    return info.path


def source_of(path: Path) -> dict[str, Any]:
    (record,) = json.loads((path / "store.json").read_text())["provenance"]["models"]
    return dict(record)


@pytest.mark.parametrize("name", ["exp1", "exp2"])
def test_models_in_folders_of_one_base_name_are_told_apart(made: Path, tmp_path: Path, name: str) -> None:
    model = made / name / "checkpoint-500"
    assert train(made, tmp_path / "run", "--audio-encoder", f"whisper={model}") == 0
    assert source_of(store_of(made, tmp_path / "run"))["model"] == str(model)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["models"]["audio"]
    assert recorded["model"] == str(model) and recorded["fingerprint"] == fingerprint(model)
    assert run(["evaluate", str(tmp_path / "run"), "--split", "valid"]) == 0


def test_a_relative_path_and_a_link_name_the_same_folder(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latest").symlink_to(made / "exp2" / "checkpoint-500")
    monkeypatch.chdir(tmp_path)
    assert train(made, tmp_path / "run", "--audio-encoder", "whisper=latest") == 0
    assert source_of(store_of(made, tmp_path / "run"))["model"] == str(made / "exp2" / "checkpoint-500")


@pytest.mark.parametrize("model", ["exp3/checkpoint-500", "/nonexistent/checkpoint-500", "hub/checkpoint-500"])
def test_a_model_that_was_not_extracted_is_never_replaced_by_another(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, model: str
) -> None:
    monkeypatch.chdir(made)
    assert train(made, tmp_path / "run", "--audio-encoder", f"whisper={model}") == 1
    message = capsys.readouterr().err
    assert f"whisper={model} is not extracted yet" in message
    assert f"the most similar one is {made}/data/stores/audio/whisper-checkpoint-500-L2-" in message
    assert not (tmp_path / "run").exists()
    if model.startswith("/"):
        assert "the folder /nonexistent/checkpoint-500 does not exist" in message
    else:
        assert f"mervn extract --data {made}/data --audio-encoder whisper={model}" in message


def test_without_a_model_several_stores_are_listed_with_their_models(
    made: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert train(made, tmp_path / "run", "--audio-encoder", "whisper") == 2
    message = capsys.readouterr().err
    for name in ("exp1", "exp2"):
        assert f"--audio-encoder whisper={made}/{name}/checkpoint-500@2" in message
    assert run(["store", "list", "--data", str(made / "data")]) == 0
    listed = capsys.readouterr().out
    assert all(f"{made}/{name}/checkpoint-500" in listed for name in ("exp1", "exp2"))


def test_a_copied_folder_matches_by_its_files_and_a_changed_one_does_not(
    made: Path, tmp_path: Path, capsys: Captured
) -> None:
    copy = shutil.copytree(made / "exp1" / "checkpoint-500", tmp_path / "elsewhere")
    (copy / "optimizer.pt").write_bytes(b"of the training")
    (copy / "README.md").write_text("of no importance")
    assert train(made, tmp_path / "run", "--audio-encoder", f"whisper={copy}") == 0
    assert source_of(store_of(made, tmp_path / "run"))["model"] == str(made / "exp1" / "checkpoint-500")
    change_one_number(copy / "model.safetensors")
    assert train(made, tmp_path / "other", "--audio-encoder", f"whisper={copy}") == 1
    assert "is not extracted yet" in capsys.readouterr().err


def change_one_number(path: Path) -> None:
    weights = load_file(path)
    weights["encoder.layers.1.fc1.weight"][0, 0] += 1
    save_file(weights, path, {"format": "pt"})


def test_equal_weights_in_other_files_are_known_once_they_were_extracted(tmp_path: Path, capsys: Captured) -> None:
    make_data(tmp_path / "data", {"train": 6, "valid": 4, "test": 2})
    first = make_whisper(tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "second")
    torch.save(load_file(second / "model.safetensors"), second / "pytorch_model.bin")
    (second / "model.safetensors").unlink()
    assert extract(tmp_path, f"whisper={first}") == 0
    assert train(tmp_path, tmp_path / "run", "--audio-encoder", f"whisper={second}") == 1
    capsys.readouterr()
    assert extract(tmp_path, f"whisper={second}", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["stores"][0]["encoded"] == 0
    assert train(tmp_path, tmp_path / "run", "--audio-encoder", f"whisper={second}") == 0
    (info,) = list_stores(tmp_path / "data" / "stores", "audio")
    assert [record["model"] for record in info.provenance["models"]] == [str(first), str(second)]
    assert extract(tmp_path, f"whisper={second}") == 0
    assert len(list_stores(tmp_path / "data" / "stores", "audio")[0].provenance["models"]) == 2


def test_an_encoder_and_a_store_that_contradict_each_other_are_wrong_usage(
    made: Path, tmp_path: Path, capsys: Captured
) -> None:
    stores = {source_of(i.path)["model"]: i.path for i in list_stores(made / "data" / "stores", "audio")}
    store = stores[str(made / "exp1" / "checkpoint-500")]
    for wrong in (f"whisper={made}/exp2/checkpoint-500", "whisper@1", "fourier2vec"):
        assert train(made, tmp_path / "run", "--audio-encoder", wrong, "--audio-store", str(store)) == 2
        assert f"--audio-store {store} must be a store of --audio-encoder {wrong}" in capsys.readouterr().err
    right = f"whisper={made}/exp1/checkpoint-500@2"
    assert train(made, tmp_path / "run", "--audio-encoder", right, "--audio-store", str(store)) == 0


def test_a_store_of_before_the_record_matches_by_its_recorded_selector_alone(tmp_path: Path, capsys: Captured) -> None:
    make_data(tmp_path / "data", {"train": 6, "valid": 4, "test": 2})
    model = make_whisper(tmp_path / "model")
    assert extract(tmp_path, f"whisper={model}") == 0
    (info,) = list_stores(tmp_path / "data" / "stores", "audio")
    document = json.loads((info.path / "store.json").read_text())
    del document["provenance"]["models"]
    (info.path / "store.json").write_text(json.dumps(document))
    copy = shutil.copytree(model, tmp_path / "other" / "model")
    assert train(tmp_path, tmp_path / "run", "--audio-encoder", f"whisper={copy}") == 1
    message = capsys.readouterr().err
    assert f"does not record the files of its model, so only the name whisper={model} identifies it" in message
    with pytest.warns(UserWarning, match="does not record the files of its model"):
        assert train(tmp_path, tmp_path / "run", "--audio-encoder", f"whisper={model}") == 0
    assert train(tmp_path, tmp_path / "plain", "--audio-encoder", "whisper") == 0
    assert extract(tmp_path, f"whisper={copy}") == 0  # encodes nothing, and records the files
    assert train(tmp_path, tmp_path / "again", "--audio-encoder", f"whisper={copy}") == 0


def test_a_file_of_weights_its_folder_and_its_copy_are_one_model(tmp_path: Path) -> None:
    make_data(tmp_path / "data", {"train": 6, "valid": 4, "test": 2})
    folder = make_vggish(tmp_path / "v")
    copy = shutil.copy(folder / "vggish.safetensors", tmp_path / "renamed.safetensors")
    assert extract(tmp_path, f"vggish={folder}") == 0
    for number, model in enumerate((folder, folder / "vggish.safetensors", copy)):
        assert train(tmp_path, tmp_path / f"run-{number}", "--audio-encoder", f"vggish={model}") == 0


def test_random_weights_kept_in_a_store_are_its_model(tmp_path: Path, capsys: Captured) -> None:
    make_data(tmp_path / "data", {"train": 6, "valid": 4, "test": 2})
    assert extract(tmp_path, "fourier2vec") == 0
    (info,) = list_stores(tmp_path / "data" / "stores", "audio")
    assert source_of(info.path) == {"model": None, "commit": None, "fingerprint": None}
    assert train(tmp_path, tmp_path / "run", "--audio-encoder", f"fourier2vec={info.path / 'encoder'}") == 0
    assert train(tmp_path, tmp_path / "other", "--audio-encoder", "fourier2vec=/nowhere") == 1


@pytest.mark.parametrize("change", ["middle", "end", "config", "name"])
def test_fingerprints_of_big_files_see_every_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(model_source, "MAX_FULL_HASH", 1 << 12)
    first = make_wave_transformer(tmp_path / "a")
    second = shutil.copytree(first, tmp_path / "b")
    assert fingerprint(first) == fingerprint(second)
    path = second / "model.safetensors"
    if change == "config":
        config = json.loads((second / "config.json").read_text())
        (second / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    elif change == "name":
        path.rename(second / "other.safetensors")
    else:
        weights = load_file(path)
        name = sorted(weights)[len(weights) // 2] if change == "middle" else sorted(weights)[-1]
        weights[name] = weights[name] + 0.5
        save_file(weights, path, {"format": "pt"})
    assert fingerprint(first) != fingerprint(second)


def test_fingerprints_of_big_pickled_weights_see_every_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_source, "MAX_FULL_HASH", 1 << 12)
    weights = {f"layer.{number}": torch.randn(64, 64) for number in range(8)}
    for name, number in (("a", None), ("b", None), ("c", 4)):
        (tmp_path / name).mkdir()
        if number is not None:
            weights[f"layer.{number}"][32, 32] += 1
        torch.save(weights, tmp_path / name / "pytorch_model.bin")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")


OFFSETS = '{"a": {"data_offsets": %s}}'


@pytest.mark.parametrize(
    "header",
    [
        '{"a":' + "[" * 100_000, OFFSETS % '["x", 1]', OFFSETS % "[1e400, 3]", OFFSETS % "[-999999999, 3]",
        OFFSETS % "[99999999999999999999999, 3]", OFFSETS % "[null, [3]]", OFFSETS % "5",
    ],
    ids=lambda header: header[:50],
)  # fmt: skip
def test_a_damaged_header_of_weights_does_not_stop_a_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    monkeypatch.setattr(model_source, "MAX_FULL_HASH", 1 << 12)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(1 << 14))
    before = fingerprint(path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert fingerprint(path) != before


def test_an_index_leads_to_no_file_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"1")
    folder = tmp_path / "model"
    folder.mkdir()
    names = ["../secret.safetensors", str(tmp_path / "secret.safetensors"), "..", "", 5, None, ["x"], "b.safetensors"]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    assert find_weights(folder) == ["b.safetensors"]
    before = fingerprint(folder)
    (tmp_path / "secret.safetensors").write_bytes(b"2")
    assert fingerprint(folder) == before
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)
    assert find_weights(folder) == [] and fingerprint(folder) != before


@pytest.mark.parametrize(
    "models",
    [None, [], {}, "x", [5], [{"model": 5}], [{"model": "x", "commit": 7}], [{"fingerprint": []}], [{"other": "x"}]],
    ids=str,
)
def test_an_edited_record_of_models_has_one_message(tmp_path: Path, models: object) -> None:
    info = StoreInfo(tmp_path, IDENTITY, {"models": models})
    for use in (recorded_models, recorded_selector, describe_models):
        with pytest.raises(InputError, match=r"store\.json must list the models of the store"):
            use(info)
