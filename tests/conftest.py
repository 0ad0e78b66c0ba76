"""Set-up shared by all tests: no network, and one thread per process, for the tests run in several at once."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of commands and benchmarks that tests start
os.environ.pop("MERVN_FEATURES", None)
gc.disable()  # until all is imported

import pytest  # noqa: E402
from warm_process import share_server, use_server  # noqa: E402

SLOW = (
    "test_known_answers", "test_distributed", "test_benchmarks", "test_ray_engine", "test_study_run",
    "test_onnx_export", "test_train_head", "test_docs", "test_serve", "test_finetune", "test_fault_watch", "test_main",
    "test_html", "test_claims", "test_site", "test_head", "test_pretrain", "test_reader", "test_withheld", "test_base",
    "test_architecture", "test_extract", "test_averaging", "test_maintenance", "test_linear_fit", "test_transfers",
    "test_run_folder", "test_result_folder", "test_mapped", "test_evaluate_series", "test_predict",
    "test_unread_options", "test_rejected", "test_scheduler", "test_leak_baselines", "test_install",
    "test_resampling", "test_corpus", "test_streams", "test_torch_seed", "test_check_module", "test_custom_module",
)  # fmt: skip
"""Files that begin first, the slowest before the others, so that no worker is left with one of them at the end."""

OWN_SIZES = (
    "test_base", "test_benchmarks", "test_earlier_files", "test_encoder_checks", "test_gpu", "test_known_answers",
    "test_ray_engine",
)  # fmt: skip
"""Files in which fourier2vec and hashed_ngrams have their own sizes, as in the processes that tests start."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each of the processes that run tests, in the one that starts them, of one server of warm processes."""
    node.workerinput["warm_server"] = share_server()


def pytest_configure(config: pytest.Config) -> None:
    """Use the server of the process that has started this one, if any has."""
    if hasattr(config, "workerinput"):
        use_server(config.workerinput["warm_server"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow files first."""
    order = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """Compute with one thread, and leave what was imported out of garbage collections, each a third of a second."""
    import torch  # only here: the process that starts those that run tests does without

    torch.set_num_threads(1)  # before fixtures of a module train: equal bytes are promised at equal numbers of threads
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def no_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hide GPUs from all tests but test_gpu: equal bytes, which many tests compare, are promised on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_gpu":
            patch.setattr("torch.cuda.is_available", lambda: False)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that tests start
        yield


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks() -> Iterator[None]:
    """Skip fsync, which only a loss of power would show to be missing; tests of its calls put their own in its place.

    Without, a training of a fifth of a second waits for the disk as long again. Other processes do call it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def small_vggish() -> Iterator[None]:
    """Give VGGish narrow layers after its convolutions: its own are 270 MB, to draw, write, hash and read in each test.

    test_vggish compares those of its own size with the reference.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.encoders.vggish.HIDDEN", 64)
        yield


@pytest.fixture(autouse=True, scope="module")
def small_defaults(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give the two encoders without pretrained weights narrow layers, but not in the processes that tests start.

    Their own are 3 and 4 million weights, to draw, hash, write and compute with in each extraction.
    """
    from tiny import AUDIO_SIZES, TEXT_SIZES

    own = request.module.__name__ in OWN_SIZES
    audio = mock.patch.dict("features.encoders.fourier2vec.DEFAULTS", {} if own else AUDIO_SIZES)
    text = mock.patch.dict("features.encoders.hashed_ngrams.DEFAULTS", {} if own else TEXT_SIZES)
    with audio, text:
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Undo what a command under test did to the number of threads."""
    import torch

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


@pytest.fixture(scope="session")
def tiny_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny encoders, and a data folder with their features; tests work on copies of it."""
    from test_extract import run
    from tiny import make_data
    from tiny_extraction import small_encoders

    folder = tmp_path_factory.mktemp("extracted")
    data = make_data(folder / "data")
    for selector in small_encoders(folder):
        run(data, selector)
    return folder


@pytest.fixture(autouse=True, scope="module")
def no_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep commands from adding a report to each tiny run: its figures take longer than the run."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_html":
            patch.setattr("cli.run_report.write", lambda run: run / "report.html")
        yield
