"""Set-up shared by all tests: no network, and the same number of threads everywhere."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("MERVN_FEATURES", None)

import pytest
import torch

torch.set_num_threads(2)  # before fixtures of a module train: equal bytes are promised at equal numbers of threads


@pytest.fixture(autouse=True)
def two_threads() -> None:
    """Undo what a command under test did to the number of threads."""
    torch.set_num_threads(2)


@pytest.fixture(params=["hdf5", "zarr"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each format of the parts of a feature store."""
    return str(request.param)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny checkpoints, by encoder."""
    from every_encoder import make_checkpoints

    return make_checkpoints(tmp_path_factory.mktemp("models"))
