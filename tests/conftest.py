"""Set-up shared by all tests: no network, and one thread per process, for the tests run in several at once."""

import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of commands and benchmarks that tests start
os.environ.pop("MERVN_FEATURES", None)

import pytest
import torch

torch.set_num_threads(1)  # before fixtures of a module train: equal bytes are promised at equal numbers of threads
SLOW = (
    "test_benchmarks", "test_known_answers", "test_distributed", "test_finetune", "test_ray_engine", "test_docs",
    "test_study_run",
)  # fmt: skip
"""Files that begin first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow files first."""
    items.sort(key=lambda item: item.path.stem not in SLOW)


@pytest.fixture(autouse=True, scope="module")
def no_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hide GPUs from all tests but test_gpu: equal bytes, which many tests compare, are promised on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_gpu":
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that tests start
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Undo what a command under test did to the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(params=["hdf5", "zarr"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each format of the parts of a feature store."""
    return str(request.param)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny checkpoints, by encoder."""
    from every_encoder import make_checkpoints

    return make_checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True, scope="module")
def no_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep commands from adding a report to each tiny run: its figures take longer than the run."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_html":
            patch.setattr("cli.run_report.write", lambda run: run / "report.html")
        yield
