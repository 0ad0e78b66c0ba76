"""Hub models: the cache comes first, without any request; revisions; the commit is recorded."""

import json
import shutil
import socket
from pathlib import Path

import pytest
from tiny import make_data, make_phobert, make_whisper

from cli.main import run
from features.encoders import ENCODERS
from features.encoders.base import load_encoder
from features.encoders.hub import is_cached, missing_files, select_weights, split_revision
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from features.store.index import list_stores

Captured = pytest.CaptureFixture[str]
FIRST, SECOND = "a" * 40, "b" * 40


def put_in_cache(cache: Path, name: str, source: Path, commit: str, *revisions: str) -> Path:
    """Write a checkpoint as the hub's client does: blobs, a snapshot of links, and refs to its commit."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for path in source.iterdir():
        blob = folder / "blobs" / f"{commit[:8]}-{path.name}"
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(blob)
    for revision in revisions:
        ref = folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
    return snapshot


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Let the hub's client work as if it were online, over a network in which every attempt is counted and fails."""
    from huggingface_hub import constants
    from transformers.utils import hub

    attempts: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        attempts.append(address)
        raise OSError("the network is blocked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def two_revisions(cache: Path, tmp_path: Path) -> Path:
    put_in_cache(cache, "lab/voice", make_whisper(tmp_path / "one"), FIRST, "v1", "refs/pr/1")
    put_in_cache(cache, "lab/voice", make_whisper(tmp_path / "two", seed=1), SECOND, "main")
    return cache


def test_a_cached_model_is_loaded_without_a_request_or_a_word(
    two_revisions: Path, requests: list[object], capsys: Captured
) -> None:
    encoder = load_encoder(parse_selector("whisper=lab/voice@1", "audio"))
    assert (encoder.source.model, encoder.source.commit, encoder.model_name) == ("lab/voice", SECOND, "voice")
    captured = capsys.readouterr()
    assert not requests and captured.out + captured.err == ""


def test_a_cached_text_model_is_loaded_without_a_request(cache: Path, tmp_path: Path, requests: list[object]) -> None:
    put_in_cache(cache, "lab/words", make_phobert(tmp_path / "words"), FIRST, "main")
    for name in ("phobert", "transformer"):
        encoder = load_encoder(parse_selector(f"{name}=lab/words", "text"))
        assert encoder.source.commit == FIRST
    assert not requests


@pytest.mark.parametrize(
    ("revision", "commit"),
    [("", SECOND), ("#main", SECOND), ("#v1", FIRST), ("#refs/pr/1", FIRST), (f"#{FIRST}", FIRST)],
)
def test_a_revision_is_chosen_by_branch_tag_or_commit(
    two_revisions: Path, requests: list[object], revision: str, commit: str
) -> None:
    encoder = load_encoder(parse_selector(f"whisper=lab/voice{revision}@2", "audio"))
    assert (encoder.source.commit, encoder.model_name, encoder.layers) == (commit, "voice", (2,))
    assert not requests


def test_stores_of_two_revisions_are_told_apart(two_revisions: Path, tmp_path: Path, capsys: Captured) -> None:
    data = make_data(tmp_path / "data", {"train": 6, "valid": 4, "test": 2})
    for model in ("lab/voice", "lab/voice#v1"):
        assert run(["extract", "--data", str(data), "--audio-encoder", f"whisper={model}"]) == 0
    wanted = {"lab/voice": SECOND, "lab/voice#v1": FIRST, f"lab/voice#{FIRST}": FIRST, f"lab/voice#{SECOND}": SECOND}
    stores = {info.provenance["models"][0]["commit"]: info.hash for info in list_stores(data / "stores", "audio")}
    train = ["train-head", "--data", str(data), "--fusion", "audio", "--epochs", "1", "--dim", "16"]
    for number, (model, commit) in enumerate(wanted.items()):
        output = tmp_path / f"run-{number}"
        assert run([*train, "--output", str(output), "--audio-encoder", f"whisper={model}"]) == 0
        config = json.loads((output / "config.json").read_text())
        assert config["inputs"]["stores"]["audio"] == [stores[commit]]
        assert config["models"]["audio"]["commit"] == commit
    capsys.readouterr()
    assert run([*train, "--audio-encoder", "whisper=lab/voice#v2"]) == 1
    assert "whisper=lab/voice#v2 is not extracted yet" in capsys.readouterr().err


def test_what_neither_the_cache_nor_the_hub_gives_is_named_quickly(
    two_revisions: Path, requests: list[object], capsys: Captured
) -> None:
    (two_revisions / "models--lab--voice" / "snapshots" / SECOND / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"local hub cache, which lacks preprocessor_config.json\|processor_config"):
        load_encoder(parse_selector("whisper=lab/voice", "audio"))
    with pytest.raises(InputError, match=r"'lab/voice#v9' must be in the local hub cache or on the hub"):
        load_encoder(parse_selector("whisper=lab/voice#v9", "audio"))
    assert 0 < len(requests) < 6
    assert "Retrying" not in capsys.readouterr().err
    with pytest.raises(UsageError, match="must have the form NAME or NAME#REVISION, found 'lab/voice#'"):
        load_encoder(parse_selector("whisper=lab/voice#", "audio"))


def test_encoders_says_yes_only_if_the_weights_are_cached(
    cache: Path, tmp_path: Path, requests: list[object], capsys: Captured
) -> None:
    def here() -> dict[str, str]:
        capsys.readouterr()
        assert run(["encoders", "--json"]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])["encoders"]
        return {entry["name"]: entry["here"] for entry in found}

    snapshot = put_in_cache(cache, "openai/whisper-small", make_whisper(tmp_path / "w"), FIRST, "main")
    assert here()["whisper"] == "yes" and here()["hubert"] == "no"
    blob = (snapshot / "model.safetensors").resolve()
    blob.rename(blob.with_suffix(".incomplete"))  # the link of the snapshot stays
    assert here()["whisper"] == "no"
    (snapshot / "model.safetensors").unlink()
    assert here()["whisper"] == "no"
    assert not requests


def test_the_files_of_weights_are_those_that_transformers_takes(tmp_path: Path) -> None:
    both = ["config.json", "pytorch_model.bin", "model.safetensors", "model.fp32-00001-of-00002.safetensors"]
    assert select_weights(both) == ["model.safetensors"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert select_weights([*shards, "model.safetensors.index.json", "pytorch_model.bin"]) == shards
    assert select_weights(["flax_model.msgpack", "training_args.bin", "onnx/model.bin", "xsmall.bin"]) == ["xsmall.bin"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    )
    (tmp_path / shards[0]).write_bytes(b"")
    assert missing_files(tmp_path, ("config.json", "vocab.txt|*.model")) == ["vocab.txt|*.model", shards[1]]
    (tmp_path / "spm.model").write_bytes(b"")
    (tmp_path / shards[1]).write_bytes(b"")
    assert missing_files(tmp_path, ("config.json", "vocab.txt|*.model")) == []


def test_hub_models_say_which_files_they_need() -> None:
    specs = [spec for registry in ENCODERS.values() for spec in registry.values() if spec.model is not None]
    assert specs and all("config.json" in spec.files for spec in specs)
    assert split_revision("lab/voice#refs/pr/1") == ("lab/voice", "refs/pr/1") and not is_cached("lab/none", ())
