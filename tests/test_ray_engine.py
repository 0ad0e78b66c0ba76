"""Ray engines: the features and cells of a local run, also if actors are killed; faults of machines are reported."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import warm_ray_worker
from test_extract import content, run
from tiny import Recorder, make_data
from tiny_extraction import small_encoders
from tiny_store import IDENTITY
from warm_process import share_server

from cli.main import run as run_command
from features.config import SPLITS
from features.encoders.selector import Selector, parse_selector
from features.errors import InputError, UsageError
from features.extraction import ray_engine
from features.extraction.ray_engine import RayEngine
from features.extraction.ray_worker import Expected, RayWorker, Report, common_versions
from features.extraction.settings import ExtractSettings, open_encoder, store_identity
from features.extraction.worker import Destination, Unit, UnitResult
from features.manifests.manifest import read_manifests
from features.progress import SILENT
from features.ray_cluster import refuse_unreachable
from features.store.claims import FOLDER
from features.store.identity import StoreInfo
from mervn.config import AblateOptions, TrainHeadOptions
from mervn.study.ablate import ablate
from mervn.study.cell_worker import Outcome
from mervn.study.cells import Cell
from mervn.study.ray_engine import RayEngine as CellEngine
from mervn.study.ray_engine import make_place, refuse_machine

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.skipif(find_spec("ray") is None, reason="needs ray"),
]
SELECTOR = parse_selector("fourier2vec", "audio")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster whose workers have another working folder than the driver, as on other machines.

    Its workers start warm. It has no autoscaler, no reader of logs and no dashboard: programs that take seconds to
    start, and that no test asks anything.
    """
    import ray
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    less: dict[str, Any] = {"no_monitor": True, "include_log_monitor": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(warm_ray_worker.SERVER, share_server())
        patch.setattr(
            RayParams, "__init__", partialmethod(RayParams.__init__, setup_worker_path=warm_ray_worker.__file__, **less)
        )
        patch.setattr(Node, "start_api_server", lambda self, **_: None)
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        finally:
            os.chdir(here)
    yield ray
    ray.shutdown()


def kill_after_submit(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Kill the actor that has just been given a unit, so many times; return the processes as they are killed."""
    submit, killed = RayEngine.submit, []

    def and_kill(self: RayEngine, unit: Unit) -> None:
        process = self._ray.get(self._idle[-1].process.remote()) if len(killed) < times else None
        submit(self, unit)
        if process is not None:
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    monkeypatch.setattr(RayEngine, "submit", and_kill)
    return killed


def test_deaths_of_actors_are_counted_per_unit(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "RETRIES", 1)
    data = make_data(tmp_path / "data", {"train": 60, "valid": 10, "test": 10})
    selector, _ = small_encoders(tmp_path)
    killed = kill_after_submit(monkeypatch, ray_engine.RETRIES + 1)
    result = run(data, selector, engine="ray", workers=1, threads=1)
    assert len(set(killed)) == ray_engine.RETRIES + 1
    assert result.encoded == 80
    assert content(result.path) == content(run(data, selector, features_dir=tmp_path / "local").path)
    left = [path.name for path in Path(result.path).iterdir() if path.name.startswith(".part") or path.name == FOLDER]
    assert not left


def test_relative_paths_of_data_features_and_model_are_found_by_actors(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path / "data", {"train": 4, "valid": 1, "test": 1})
    monkeypatch.chdir(tmp_path)
    small_encoders(Path())
    selector = "fourier2vec=fourier2vec@1"
    result = run(Path("data"), selector, features_dir=Path("stores"), engine="ray", workers=2, threads=1)
    assert result.encoded == 6
    local = run(Path("data"), selector, features_dir=Path("local"))
    assert content(result.path) == content(local.path)


def engine(monkeypatch: pytest.MonkeyPatch, actor: type, features_dir: Path, **changes: Any) -> RayEngine:
    monkeypatch.setattr(ray_engine, "RayWorker", actor)
    settings = replace(ExtractSettings(features_dir, engine="ray", workers=1), **changes)
    return RayEngine(open_encoder(SELECTOR, settings), SELECTOR, settings, [], SILENT)


def test_the_plan_is_made_for_the_device_of_the_actors(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnGpu(RayWorker):
        def __init__(self, *_: object) -> None:
            pass

        def report(self) -> Report:
            return Report(None, "cuda", 300.0)

    found = engine(monkeypatch, OnGpu, tmp_path)
    assert (found.device.type, found.default_budget) == ("cuda", 300.0)
    found.close()
    with pytest.raises(UsageError, match="--device cuda needs a GPU, but the Ray cluster has none"):
        engine(monkeypatch, OnGpu, tmp_path, device="cuda")


def test_a_unit_whose_actors_keep_dying_ends_the_extraction(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(RayWorker):
        def __init__(self, *_: object) -> None:
            pass

        def report(self) -> Report:
            return Report(None, "cpu", 8.0)

        def encode(self, *_: object) -> UnitResult:
            os._exit(1)

    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    monkeypatch.setattr(ray_engine, "RayWorker", Dying)
    monkeypatch.setattr(ray_engine, "RETRIES", 1)
    with pytest.raises(InputError, match=r"an actor died 2 times on the unit of .*the same command resumes"):
        run(data, engine="ray", workers=1)


def test_a_fault_of_a_machine_is_the_fault_of_the_extraction(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(RayWorker):
        def __init__(self, *_: object) -> None:
            self.fault = "every machine must have the same versions"

    with pytest.raises(InputError, match="every machine must have the same versions"):
        engine(monkeypatch, Faulty, tmp_path)


def worker(
    settings: ExtractSettings, versions: dict[str, str] | None = None, selector: Selector = SELECTOR
) -> RayWorker:
    """Return what an actor holds, in this process."""
    encoder = open_encoder(SELECTOR, settings)
    identities = [store_identity(encoder, SELECTOR, layer, settings) for layer in encoder.layers]
    found = common_versions("audio") if versions is None else versions
    return RayWorker(selector, settings, Expected(identities, found))


def test_a_machine_reports_its_differences_from_the_driver(tmp_path: Path) -> None:
    settings = ExtractSettings(tmp_path, device="cpu")
    assert worker(settings).report() == Report(None, "cpu", 8.0)
    older = common_versions("audio") | {"transformers": "4.0.0"}
    fault = worker(settings, older).report().fault or ""
    assert "must have the same versions" in fault
    assert "transformers" in fault
    assert "for 4.0.0" in fault
    other = worker(settings, selector=parse_selector("fourier2vec@1", "audio")).report().fault or ""
    assert "must be the same encoder on every machine" in other
    lacking = worker(settings, selector=parse_selector("whisper=/nowhere", "audio")).report().fault or ""
    assert "/nowhere" in lacking


def test_a_machine_that_cannot_see_the_audio_or_the_features_rejects_nothing(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 2, "valid": 1, "test": 1})
    first, second = read_manifests(data, SPLITS)["train"]
    path = Path(run(data).path)
    to = Destination(StoreInfo(path, IDENTITY, {}), 0, "hdf5")
    actor = worker(ExtractSettings(tmp_path, device="cpu"))
    unmounted = replace(second, audio_path=tmp_path / "mount" / "a.wav")
    with pytest.raises(InputError, match=r"mount/a\.wav must exist on every machine of the cluster, but does not"):
        actor.encode(Unit("u", [[first, unmounted]], [set()]), [to], "token")
    actor = worker(ExtractSettings(tmp_path, device="cpu"))
    unseen = replace(to, info=replace(to.info, path=tmp_path / "mount" / "store"))
    with pytest.raises(InputError, match=r"mount/store/store\.json must exist"):
        actor.encode(Unit("u", [[first]], [set()]), [unseen], "token")


GRID = "baselines = false\nseeds = 2\n"
GRID += '[base]\ndim = 8\nmlp = [8]\nepochs = 1\ntext-encoder = "hashed_ngrams"\n[rows]\nfusion = ["text"]\n'
WRITTEN = ("config.json", "metrics.json", "predictions-valid.jsonl", "model.safetensors")


def test_cells_of_a_study_are_those_of_a_local_one(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All paths are relative, and Ray's processes have another current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mervn.study.ablate.write_study_report", lambda _: None)
    run(make_data(Path("data")), "hashed_ngrams")
    Path("GRID.toml").write_text(GRID)
    recorder, output = Recorder(), Path("ray")
    options = AblateOptions(engine="ray", jobs=1, device="cpu", output=output)
    found = ablate(Path("GRID.toml"), options, Path("data"), recorder)
    assert any(line.startswith("Ray cluster: 2 CPUs and 0 GPUs, at most 1 at a time") for line in recorder.lines)
    assert not (output / "logs").exists()  # no process of this machine trained a cell
    local = ablate(Path("GRID.toml"), AblateOptions(jobs=1, device="cpu", output=Path("local")), Path("data"))
    assert found.waiting == local.waiting == 2
    cells = sorted(path.name for path in (output / "runs").iterdir())
    assert len(cells) == 2
    for name in ("table.csv", "effects.csv", *(f"runs/{cell}/{file}" for cell in cells for file in WRITTEN)):
        assert (output / name).read_bytes() == (local.output / name).read_bytes(), name


def test_a_cell_whose_process_died_fails_alone(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = CellEngine(make_place(tmp_path, tmp_path, 1, "cpu"), None, None, SILENT)
    assert cells.jobs == 2
    cell = Cell(0, 0, None, 0, TrainHeadOptions(output=tmp_path / "run"), "")
    assert cells._outcome(cluster.put(Outcome("run")), cell) == Outcome("run")
    monkeypatch.setattr(cluster, "get", Raises(cluster.exceptions.WorkerCrashedError()))
    assert (cells._outcome(None, cell).error or "").startswith("its process ended: The worker died unexpectedly")
    monkeypatch.setattr(
        cluster, "get", Raises(cluster.exceptions.RayTaskError("train_cell", "", InputError("no folder")))
    )
    with pytest.raises(InputError, match="no folder"):
        cells._outcome(None, cell)
    with pytest.raises(UsageError, match="--device cuda needs a GPU, but the Ray cluster has none"):
        CellEngine(make_place(tmp_path, tmp_path, 1, "cuda"), None, None, SILENT)


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, _: object) -> None:
        raise self.error


def test_a_machine_that_cannot_train_a_cell_is_named(tmp_path: Path) -> None:
    place = make_place(tmp_path, tmp_path, 1, "cpu")
    refuse_machine(place)
    with pytest.raises(InputError, match=r"nowhere must exist on every machine of the cluster, but does not on"):
        refuse_machine(replace(place, data=tmp_path / "nowhere"))
    other = replace(place, versions={**place.versions, "torch": "1.0"})
    with pytest.raises(InputError, match=r"must have the same versions, but .* has torch .* for 1\.0"):
        refuse_machine(other)


def test_options_of_ray_need_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(tmp_path)
    assert run_command(["extract", "--data", str(tmp_path), "--workers", "2"]) == 2
    assert "--workers and --ray-address need --engine ray" in capsys.readouterr().err
    assert run_command(["ablate", "GRID.toml", "--ray-address", "auto"]) == 2
    assert "--ray-address needs --engine ray" in capsys.readouterr().err
    assert run_command(["extract", "--data", str(tmp_path), "--shard", "3/2"]) == 2
    assert "shard must be I/N with I from 1 to N, found 3/2" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_nothing_answers_is_refused_at_once(address: str) -> None:
    """Ray itself tries for many minutes."""
    with pytest.raises(InputError, match=rf"--ray-address must be a running cluster, but {address} does not answer"):
        refuse_unreachable(address)
    refuse_unreachable(None)
    refuse_unreachable("auto")
