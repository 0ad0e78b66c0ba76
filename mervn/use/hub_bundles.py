"""Bundles on the Hugging Face hub: upload with the user's token, and download by id."""

from __future__ import annotations

from pathlib import Path

from features.encoders.hub import cached_snapshot, hub_errors, is_path, split_revision
from features.errors import InputError, UsageError
from mervn.use.bundle_files import BUNDLE_FILE, check_files, read_bundle_file

LOGIN = "`hf auth login` saves one, or set HF_TOKEN"


def require_token(repository: str) -> str:
    """Return the user's token for the hub; UsageError if there is none, or for an invalid name."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"--push must be the name of a repository, such as USER/NAME, found {repository!r}") from error
    token = get_token()
    if token is None:
        raise UsageError(f"--push needs a token of the Hugging Face hub with write access: {LOGIN}")
    return token


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a complete bundle to a repository, which is created if needed; return its address.

    Files that an earlier bundle left in the repository's folders are deleted in the same commit.
    Raises InputError, with the reason in one line, if the upload fails: the bundle stays.
    """
    from huggingface_hub import HfApi

    token = require_token(repository)
    bundle = read_bundle_file(folder)
    check_files(folder, bundle)
    client = HfApi(token=token)
    try:
        url = str(client.create_repo(repository, private=private, exist_ok=True))
        client.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Bundle of {bundle.run}",
            delete_patterns=["encoders/**", "modules/**", "onnx/**"],
        )
    except Exception as error:  # any type: the client's HTTP library, whose errors it raises, depends on its version
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"the bundle {folder} is complete, but could not be uploaded to {repository!r}: {reason}"
        ) from error
    return url


def local_folder(path: str | Path) -> Path:
    """Return the folder of a run or bundle: a path, or the downloaded snapshot of a bundle on the hub.

    A name is an id of the hub, ORG/NAME[#REVISION], if nothing of that name and no folder ORG
    exists. InputError if neither the cache nor the hub has it.
    """
    folder, name = Path(path).expanduser(), str(path)
    if folder.exists() or isinstance(path, Path) or is_path(name) or name.count("/") != 1 or folder.parent.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    repository, revision = split_revision(name)
    cached = cached_snapshot(name)
    if revision is not None and cached is not None and _is_complete(cached):
        return cached
    with hub_errors(name, (BUNDLE_FILE,)):
        try:
            return Path(snapshot_download(repository, revision=revision))
        except Exception:
            if cached is not None and _is_complete(cached):  # without a network, the last download
                return cached
            raise


def _is_complete(folder: Path) -> bool:
    """Tell whether a snapshot has every file that its bundle.json lists."""
    if not (folder / BUNDLE_FILE).is_file():
        return False
    return all((folder / name).is_file() for name in read_bundle_file(folder).files)
