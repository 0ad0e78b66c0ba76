"""Claims: several processes share the work on a store, and claims of ended processes expire."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_extract import content, run
from tiny import make_data
from tiny_extraction import small_encoders
from warm_process import WarmProcess, run_warm

from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.errors import InputError
from features.extraction.plan import make_plan
from features.extraction.scheduler import Scheduler
from features.extraction.settings import ExtractSettings
from features.extraction.worker import Engine
from features.manifests.manifest import read_manifests
from features.store import claim_owner
from features.store import claims as module
from features.store.claim_owner import Owner, machine_digest, started_at
from features.store.claims import EXPIRY_S, FOLDER, Claims
from features.store.identity import read_store_info


def claim_of(store: Path, unit: str) -> Path:
    return store / FOLDER / f"{unit}.json"


def test_one_process_holds_a_unit(tmp_path: Path) -> None:
    with Claims([tmp_path]) as first, Claims([tmp_path]) as second:
        assert first.take("a") and not second.take("a") and second.take("b")
        assert len(second.holders(["a"])) == 1 and str(os.getpid()) in second.holders(["a"])[0]
        first.release("a")
        assert second.take("a")
    assert not (tmp_path / FOLDER).exists()


def test_a_unit_is_held_in_every_store_or_in_none(tmp_path: Path) -> None:
    stores = [tmp_path / "a", tmp_path / "b"]
    for store in stores:
        store.mkdir()
    with Claims(stores[1:]) as other, Claims(stores) as both:
        assert other.take("u")
        assert not both.take("u") and not claim_of(stores[0], "u").exists()
        other.release("u")
        assert both.take("u") and not other.take("u")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_store_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: Path, *rest: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(InputError, match=f"{tmp_path} must be writable, found: .*{FOLDER}"), Claims([tmp_path]):
            pass
    (tmp_path / FOLDER).mkdir()
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(InputError, match=f"{tmp_path} must be writable, found: .*{FOLDER}/.clock"), Claims([tmp_path]):
        pass


def test_a_refreshed_claim_lives_and_others_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH_S", 0.05)
    monkeypatch.setattr(claim_owner, "machine", lambda: ["elsewhere"])  # whose processes cannot be asked
    with Claims([tmp_path]) as alive:
        assert alive.take("a")
        old = time.time() - 2 * EXPIRY_S
        os.utime(claim_of(tmp_path, "a"), (old, old))
        time.sleep(0.3)
        with Claims([tmp_path]) as other:
            assert not other.take("a")
            monkeypatch.setattr(module, "REFRESH_S", 60.0)
            time.sleep(0.1)
            os.utime(claim_of(tmp_path, "a"), (old, old))
            other.sweep()
            assert other.take("a")
            alive.release("a")  # it is not its own any more
            assert claim_of(tmp_path, "a").exists()


@pytest.mark.parametrize(("pid", "machine", "kept"), [("ended", "here", 0), ("own", "here", 1), ("ended", "else", 1)])
def test_an_empty_file_of_a_process_killed_before_it_wrote_is_removed(
    tmp_path: Path, pid: str, machine: str, kept: int
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    number = ended.pid if pid == "ended" else os.getpid()
    token = f"{number}-0123abcd-{machine_digest() if machine == 'here' else '00000000'}"
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / f".clock-{token}").touch()
    with Claims([tmp_path]) as claims:
        claims.sweep()
    assert len(list(tmp_path.glob(f"{FOLDER}/.clock-*"))) == kept


@pytest.mark.parametrize("lie", ["pid", "started"])
def test_a_claim_of_an_ended_process_is_dead_at_once(tmp_path: Path, lie: str) -> None:
    with Claims([tmp_path]) as first:
        assert first.take("a")
        path = claim_of(tmp_path, "a")
        claim = json.loads(path.read_text())
        claim |= {"token": "gone", lie: 2**22 + 1 if lie == "pid" else 1}
        path.write_text(json.dumps(claim))
        (tmp_path / ".part-1.h5.gone.tmp").touch()
        (tmp_path / f".part-1.h5.{first.token}.tmp").touch()
        (tmp_path / ".part-1.h5.unknown.tmp").touch()
        with Claims([tmp_path]) as second:
            assert second.take("a")
        left = {path.name for path in tmp_path.glob(".part*")}
        assert left == {f".part-1.h5.{first.token}.tmp", ".part-1.h5.unknown.tmp"}
        old = time.time() - 2 * EXPIRY_S
        os.utime(tmp_path / ".part-1.h5.unknown.tmp", (old, old))
        first.sweep()
        assert {path.name for path in tmp_path.glob(".part*")} == {f".part-1.h5.{first.token}.tmp"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("pid", "12"), ("pid", None), ("pid", 1.5), ("pid", True), ("pid", -1), ("token", 5), ("host", [])],
)
def test_a_claim_with_an_invalid_field_counts_as_incomplete_and_expires(
    tmp_path: Path, field: str, value: object
) -> None:
    """Regression test: a process id that is no number was a TypeError in every process that met the claim."""
    with Claims([tmp_path]) as first, Claims([tmp_path]) as second:
        assert first.take("a")
        path = claim_of(tmp_path, "a")
        assert Owner.read(path) is not None  # negative control
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
        assert Owner.read(path) is None and not second.take("a")
        old = time.time() - 2 * EXPIRY_S
        os.utime(path, (old, old))
        second.sweep()
        assert second.take("a")


@pytest.mark.parametrize("links", [True, False])
def test_a_process_killed_while_it_claims_leaves_nothing_to_wait_for(tmp_path: Path, links: bool) -> None:
    """Its claim had no content, and its clock no owner: for three minutes nobody could tell that they were dead."""
    killed = "lambda *_: os._exit(9)" if links else "no_links"
    code = (
        "import errno, os, pathlib, sys\n"
        "from features.store.claims import Claims\n"
        "def no_links(*_):\n"
        "    raise OSError(errno.EPERM, 'no hard links here')\n"
        f"os.link = {killed}\n"
        "with Claims([pathlib.Path(sys.argv[1])]) as claims:\n"
        "    claims.take('u')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    with Claims([tmp_path]) as claims:
        assert claims.take("u")
    assert not (tmp_path / FOLDER).exists()


def test_a_process_killed_before_it_claims_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from features.store.claims import Claims\n"
        "with Claims([pathlib.Path(sys.argv[1])]) as claims:\n"
        "    (pathlib.Path(sys.argv[1]) / f'.part-1.h5.{claims.token}.tmp').touch()\n"
        "    os._exit(9)\n"
    )
    with Claims([tmp_path]) as alive:
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
        clocks = list((tmp_path / FOLDER).glob(".clock-*"))
        assert len(clocks) == 2
        with Claims([tmp_path]):
            pass
        assert not list(tmp_path.glob(".part*"))
        assert [path.name for path in (tmp_path / FOLDER).glob(".clock-*")] == [f".clock-{alive.token}"]
    assert not (tmp_path / FOLDER).exists()


def test_a_claim_cut_short_by_a_crash_expires(tmp_path: Path) -> None:
    with Claims([tmp_path]) as claims:
        path = claim_of(tmp_path, "a")
        path.touch()
        claims.sweep()
        assert not claims.take("a")
        old = time.time() - 2 * EXPIRY_S
        os.utime(path, (old, old))
        claims.sweep()
        assert claims.take("a")


def test_what_others_commit_meanwhile_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data")
    run_units = Scheduler.run
    inner: list[object] = []

    def with_another_inside(self: Scheduler, engine: Engine, reporter: object, update: object) -> object:
        results = run_units(self, engine, reporter, update)  # type: ignore[arg-type]
        for number, result in enumerate(results):
            if number == 2 and not inner:
                inner.append(None)
                inner[0] = run(data)  # a second process begins and ends here
            yield result

    monkeypatch.setattr(Scheduler, "run", with_another_inside)
    outer = run(data)
    assert outer.encoded + inner[0].encoded == 42 and outer.kept == inner[0].encoded > 0  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert content(outer.path) == content(run(data, features_dir=tmp_path / "alone").path)


def test_shards_share_the_work_without_overlap(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    done = [run(data, shard=(number, 3)) for number in (3, 1, 2)]
    assert all(0 < result.encoded < 42 for result in done) and sum(result.encoded for result in done) == 42
    assert [result.left for result in done] == [42 - done[0].encoded, done[2].encoded, 0]
    assert content(done[0].path) == content(run(data, features_dir=tmp_path / "alone").path)


def test_units_are_waited_for_and_taken_over_when_their_process_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path / "data")
    monkeypatch.setattr("features.extraction.scheduler.WAIT_S", 0.05)
    path = Path(run(data, shard=(1, 2)).path)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as sleeper, Claims([path]) as other:
        _claim_all_units(other, data, path, sleeper.pid)
        began = time.monotonic()
        threading.Timer(0.5, sleeper.kill).start()
        result = run(data)
        assert time.monotonic() - began >= 0.4
        assert result.left == 0 and result.encoded > 0


def _claim_all_units(claims: Claims, data: Path, store: Path, pid: int) -> None:
    """Claim every unit for another process."""
    manifests = read_manifests(data, ("train", "valid", "test"))
    utterances = [utterance for split in manifests.values() for utterance in split]
    encoder = load_encoder(parse_selector("fourier2vec", "audio"))
    identity = read_store_info(store).identity
    plan = make_plan(utterances, encoder, [identity], 2.0, ExtractSettings(data / "stores"))
    for name in map(plan.unit_name, plan.units):
        assert claims.take(name)
        path = claim_of(store, name)
        changed = {"token": "other", "pid": pid, "started": started_at(pid)}
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def arguments(features: str) -> list[str]:
    return [
        "extract",
        "--audio-encoder",
        "fourier2vec=fourier2vec",
        "--threads",
        "1",
        "--features-dir",
        features,
        "--json",
    ]


def test_two_extractions_started_together_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / "data", {"train": 700, "valid": 20, "test": 20})
    small_encoders(tmp_path)
    monkeypatch.chdir(tmp_path)
    for attempt in range(3):  # one process can start late while other tests run
        processes = [WarmProcess("from cli.main import main; main()", arguments(f"both{attempt}")) for _ in range(2)]
        finished = [process.finish() for process in processes]
        assert [done.returncode for done in finished] == [0, 0], finished
        results = [json.loads(done.stdout.splitlines()[-1])["stores"][0] for done in finished]
        assert sum(result["encoded"] for result in results) >= 740
        if all(740 / 3 <= result["encoded"] <= 740 * 2 / 3 for result in results):
            break
    else:
        pytest.fail(f"each must encode a third at least, in one of three times: {results}")
    alone = run_warm("from cli.main import main; main()", arguments("alone"))
    path = json.loads(alone.stdout.splitlines()[-1])["stores"][0]["path"]
    assert content(results[0]["path"]) == content(path)


def test_the_parts_of_units_have_the_same_names_whoever_writes_them(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    stores = [Path(run(data, features_dir=tmp_path / name).path) for name in ("a", "b")]
    names = [sorted(path.name for path in store.glob("part-*")) for store in stores]
    assert names[0] == names[1] and len(names[0]) > 5
