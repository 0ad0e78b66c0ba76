"""Bundles on the hub: what is uploaded and with which token, and one line for every fault. No network."""

import hashlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from features.errors import InputError, UsageError
from mervn.use.bundle_files import BUNDLE_FILE
from mervn.use.hub_bundles import local_folder, push, require_token

NAMES = ("config.json", "metrics.json", "model.safetensors", "encoders/audio/model.safetensors")


def write_folder(folder: Path) -> Path:
    """Write a folder with the description of a bundle; its files hold no model."""
    files = {}
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
        files[name] = {"size": len(name), "sha256": hashlib.sha256(name.encode()).hexdigest()}
    entry = {
        "modality": "audio", "name": "fourier2vec", "layers": ["last"], "settings": {}, "precision": "fp32",
        "store_dtype": "fp16", "weights_sha256": "0", "config": {}, "numerics_version": 2, "segmenter_sha256": None,
        "model": ".", "link": None, "weights": "random, seed 0", "licence": "Apache-2.0",
    }  # fmt: skip
    document = {"format": 1, "run": "first", "run_hash": "0", "encoders": {"audio": entry}, "files": files}
    (folder / BUNDLE_FILE).write_text(json.dumps({**document, "versions": {}, "card_sha256": "0"}))
    return folder


class FakeHub:
    """Records the calls that the client would send to the hub."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    fault: Exception | None = None

    def __init__(self, token: str) -> None:
        self.calls.append(("token", {"token": token}))

    def create_repo(self, repository: str, **options: Any) -> str:
        if self.fault is not None:
            raise self.fault
        self.calls.append(("create_repo", {"repository": repository, **options}))
        return f"https://huggingface.co/{repository}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload_folder", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    FakeHub.calls, FakeHub.fault = [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_of_the_user")
    return FakeHub


def test_a_bundle_is_uploaded_with_the_users_token(hub: type[FakeHub], tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    assert push(folder, "user/first", private=True) == "https://huggingface.co/user/first"
    token, create, upload = hub.calls
    assert token == ("token", {"token": "hf_of_the_user"})
    assert create == ("create_repo", {"repository": "user/first", "private": True, "exist_ok": True})
    assert upload[1]["folder_path"] == folder and upload[1]["repo_id"] == "user/first"
    assert "encoders/**" in upload[1]["delete_patterns"]


def test_a_damaged_bundle_is_not_uploaded(hub: type[FakeHub], tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "model.safetensors").write_text("model.safetensorz")
    with pytest.raises(InputError, match=r"model\.safetensors has another content"):
        push(folder, "user/first", private=True)
    assert hub.calls == []


def test_a_failed_upload_is_one_line_and_keeps_the_bundle(hub: type[FakeHub], tmp_path: Path) -> None:
    hub.fault = ConnectionError("no route to host\nRequest ID: 17")
    with pytest.raises(InputError, match=r"is complete, but could not be uploaded to 'user/first': no route to host$"):
        push(write_folder(tmp_path), "user/first", private=True)
    assert (tmp_path / BUNDLE_FILE).is_file()


def test_a_missing_token_and_a_wrong_name_are_found_before_the_work(
    hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/b/c", "user/na me", "-x", ""):
        with pytest.raises(UsageError, match="--push must be the name of a repository, such as USER/NAME"):
            require_token(name)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UsageError, match="--push needs a token"):
        require_token("user/name")


def test_a_name_that_is_no_folder_is_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/none", "./none", "none", "a/b/c"):
        assert local_folder(path) == Path(path)
    with pytest.raises(InputError, match="'user/none' must be in the local hub cache.* or on the hub"):
        local_folder("user/none")
    downloaded: list[Any] = []

    def download(repository: str, revision: str | None = None, **options: Any) -> str:
        if options:  # a look into the cache
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        downloaded.append((repository, revision))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert local_folder("user/name#v1") == tmp_path / "snapshot" and downloaded == [("user/name", "v1")]


def test_a_complete_snapshot_in_the_cache_is_used_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(repository: str, revision: str | None = None, **options: Any) -> str:
        if options:
            return str(tmp_path)
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    write_folder(tmp_path)
    assert local_folder("user/name") == tmp_path and local_folder("user/name#v1") == tmp_path
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="offline"):
        local_folder("user/name")
