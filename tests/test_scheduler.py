"""Scheduler: settled rejections, one budget per store, and linear cost."""

import errno
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_extract import content, run
from tiny import make_data
from tiny_extraction import decoded, spoil, utterance
from tiny_store import TEXT_IDENTITY

from features.extraction.plan import Plan, Target, make_plan
from features.extraction.report import StoreResult
from features.extraction.scheduler import ROUNDS, Scheduler
from features.extraction.unit import Unit, UnitResult
from features.extraction.units import Units, plan_units
from features.extraction.worker import Destination
from features.progress import SILENT
from features.store.claims import FOLDER, Claims
from features.store.identity import StoreInfo, create_store
from features.store.part import StoredUtterance
from features.store.reader import FeatureStore
from features.store.rejected import read_rejected
from features.store.writer import StoreWriter


def test_a_process_knows_at_once_what_others_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes over 640 utterances with 3 % that cannot be used encoded 576, 640 and 576 of them."""
    data = make_data(tmp_path / "data")
    spoil(data, *(f"train-{i:03d}" for i in range(0, 24, 3)))
    run_units = Scheduler.run
    inner: list[Any] = []

    def with_another_inside(self: Scheduler, engine: Any, reporter: Any, update: Any) -> Any:
        for number, result in enumerate(run_units(self, engine, reporter, update)):
            if number == 2 and not inner:
                inner.append(None)
                inner[0] = run(data)  # a second process begins and ends here
            yield result

    monkeypatch.setattr(Scheduler, "run", with_another_inside)
    counts = decoded(monkeypatch)
    outer = run(data)
    assert outer.encoded + inner[0].encoded == 34 and inner[0].encoded > 0
    assert outer.rejected == inner[0].rejected == 8
    assert counts and max(counts.values()) == 1
    monkeypatch.undo()
    assert content(outer.path) == content(run(data, features_dir=tmp_path / "alone").path)


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_what_another_process_encodes_meanwhile_is_not_rejected(
    is_interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression test: rejected.jsonl listed stored utterances for ever after one read had failed in one process."""
    data = make_data(tmp_path / "data", {"train": 4, "valid": 1, "test": 1})
    run_units, read = Scheduler.run, soundfile.SoundFile.read
    calls, others = [0], list[StoreResult]()

    def flaky(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise OSError(errno.EIO, "fault")
        return read(self, *arguments, **options)

    def with_another_inside(self: Scheduler, engine: Any, reporter: Any, update: Any) -> Any:
        for result in run_units(self, engine, reporter, update):
            if result.rejected:
                (rejected,) = result.rejected
                assert list(read_rejected(self.infos[0].path)) == [rejected.utterance.utterance_id]
                others.append(run(data))
            yield result
            if is_interrupted and others:
                raise KeyboardInterrupt

    monkeypatch.setattr(soundfile.SoundFile, "read", flaky)
    monkeypatch.setattr(Scheduler, "run", with_another_inside)
    if is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            run(data)
    else:
        outer = run(data)
        assert outer.rejected == 0 and outer.encoded + others[0].encoded == 6
    assert len(FeatureStore(others[0].path)) == 6 and read_rejected(Path(others[0].path)) == {}


def to(info: StoreInfo) -> Destination:
    return Destination(info, 0, "hdf5")


def plan_of(count: int, store: StoreInfo) -> Plan:
    """Return a plan of `count` units of two utterances."""
    utterances = [utterance(f"u{i}") for i in range(2 * count)]
    target = Target(TEXT_IDENTITY, store, set(range(2 * count)), set(), 0, {})
    units = Units(np.arange(2 * count), np.arange(2, 2 * count + 1, 2), np.arange(1, count + 1))
    costs, num_frames = np.ones(2 * count), np.ones(2 * count, np.int64)
    return Plan(
        modality="text", utterances=utterances, targets=[target], sizes=costs, costs=costs, num_frames=num_frames,
        frame_bytes=4, units=units, rejected={}, end_clipped=0, truncated=0, token_counts=None, budget=8.0,
        empty=(), keep=tuple,
    )  # fmt: skip


class NullEngine:
    """Engine that encodes nothing."""

    capacity = 1

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.prepared: list[str] = []

    def submit(self, unit: Unit) -> None:
        self.units.append(unit)

    def prepare(self, unit: Unit) -> None:
        self.prepared.append(unit.name)

    def collect(self) -> list[UnitResult]:
        return [UnitResult(self.units[-1].name, [[]], [], 0.0)]

    def close(self) -> None:
        pass


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    for owner, name in ((Claims, "take"), (Claims, "held"), (FeatureStore, "refresh")):
        count_calls(monkeypatch, owner, name, counts)
    compare = Target.uncommitted

    def uncommitted(target: Target, indices: Sequence[int], *rest: Any) -> list[bool]:
        counts["compared"] += len(indices)
        return compare(target, indices, *rest)

    monkeypatch.setattr(Target, "uncommitted", uncommitted)
    return counts


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, counts: Counter[str]) -> None:
    method = getattr(owner, name)

    def counting(*arguments: Any) -> Any:
        counts[name] += 1
        return method(*arguments)

    monkeypatch.setattr(owner, name, counting)


@pytest.mark.parametrize("count", [100, 1600])
def test_claiming_costs_as_many_claims_as_units_and_few_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    info = create_store(tmp_path, TEXT_IDENTITY, {}, "m")
    counts = counted(monkeypatch)
    engine = NullEngine()
    with Claims([info.path]) as claims:
        scheduler = Scheduler(plan_of(count, info), [to(info)], claims)
        assert len(list(scheduler.run(engine, SILENT, lambda _: None))) == count
    assert counts["take"] == count == len({unit.name for unit in engine.units})
    assert engine.prepared == [unit.name for unit in engine.units[1:]]  # each is read while the one before is encoded
    looks = min(count, ROUNDS * (1 + math.log(max(1, count / ROUNDS))))
    assert counts["refresh"] <= looks + 4 and counts["held"] <= looks + 4


def test_units_that_others_committed_are_closed_without_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = create_store(tmp_path, TEXT_IDENTITY, {}, "m")
    plan = plan_of(ROUNDS, info)  # a round claims one unit
    counts = counted(monkeypatch)
    updates: list[int] = []
    with Claims([info.path]) as claims:
        scheduler = Scheduler(plan, [to(info)], claims)
        results = scheduler.run(NullEngine(), SILENT, updates.append)
        next(results)
        scheduler.stores[0].refresh = lambda: [u.utterance_id for u in plan.utterances]  # type: ignore[method-assign]
        monkeypatch.setattr(FeatureStore, "has", lambda _, ids: np.ones(len(ids), bool))  # all of it is there now
        assert list(results) == []
    assert counts["take"] <= 2 and sum(updates) == 2 * ROUNDS
    assert counts["compared"] <= 2 * ROUNDS


def test_what_others_commit_while_this_process_plans_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that had planned before the others committed encoded all of it once more."""
    data = make_data(tmp_path / "data")
    spoil(data, "train-003")
    others: list[StoreResult] = []

    def and_then_others(*arguments: Any, **options: Any) -> Plan:
        plan = make_plan(*arguments, **options)
        monkeypatch.undo()
        others.append(run(data))
        return plan

    monkeypatch.setattr("features.extraction.extract.make_plan", and_then_others)
    result = run(data)
    assert (others[0].encoded, others[0].rejected) == (41, 1)
    assert (result.encoded, result.kept, result.rejected) == (0, 41, 1)


class CommittingEngine(NullEngine):
    """Engine with several actors, which commit their units before the results are collected."""

    capacity = 3

    def __init__(self, info: StoreInfo, token: str) -> None:
        super().__init__()
        self.info, self.token = info, token

    def submit(self, unit: Unit) -> None:
        super().submit(unit)
        with StoreWriter(self.info, 0, "hdf5", self.token, {}) as writer:
            writer.add([StoredUtterance(name, np.zeros((1, 2), np.float16), 1, "0", "{}") for name in unit.wanted[0]])

    def collect(self) -> list[UnitResult]:
        unit = self.units.pop()
        return [UnitResult(unit.name, [sorted(unit.wanted[0])], [], 0.0)]


def test_a_unit_whose_features_are_seen_before_its_result_counts_once(tmp_path: Path) -> None:
    """With several actors a look at the store could find a unit committed that was still under way: KeyError."""
    info = create_store(tmp_path, TEXT_IDENTITY, {}, "m")
    updates: list[int] = []
    with Claims([info.path]) as claims:
        scheduler = Scheduler(plan_of(12, info), [to(info)], claims)
        results = list(scheduler.run(CommittingEngine(info, claims.token), SILENT, updates.append))
    assert len({result.name for result in results}) == len(results) == 12
    assert sum(updates) == 24


def test_a_second_process_begins_elsewhere(tmp_path: Path) -> None:
    info = create_store(tmp_path, TEXT_IDENTITY, {}, "m")
    plan = plan_of(64, info)
    engines = [NullEngine(), NullEngine()]
    with Claims([info.path]) as first, Claims([info.path]) as second:
        second.token = "1-second"
        one = Scheduler(plan, [to(info)], first).run(engines[0], SILENT, lambda _: None)
        next(one)
        assert first.take(engines[0].units[0].name)  # the first one still works on it
        next(Scheduler(plan, [to(info)], second).run(engines[1], SILENT, lambda _: None))
    started = [engine.units[0].batches[0][0].utterance_id for engine in engines]
    assert started[0] == "u0" and started[1] not in ("u0", "u2")


def test_a_claim_from_the_future_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was wrong once kept a unit claimed for ever."""
    import os
    import time

    from features.store import claim_owner

    monkeypatch.setattr(claim_owner, "machine", lambda: ["elsewhere"])
    with Claims([tmp_path]) as other, Claims([tmp_path]) as claims:
        assert other.take("a")
        later = time.time() + 1e6
        os.utime(tmp_path / FOLDER / "a.json", (later, later))
        monkeypatch.setattr(claim_owner, "machine", lambda: ["here"])
        claims.sweep()
        assert claims.take("a")


def test_units_do_not_depend_on_what_is_rejected_while_encoding() -> None:
    costs, sizes = np.array([3.0, 2.0, 2.0, 1.0]), np.ones(4, np.int64)
    assert list(plan_units(costs, sizes, set(), 4.0)) == [[[0]], [[1, 2]], [[3]]]
    assert list(plan_units(costs, sizes, {1}, 4.0)) == [[[0]], [[2, 3]]]


@pytest.mark.parametrize("flags", [[], ["--retry-rejected"]])
def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    from cli.main import run as mervn

    data = make_data(tmp_path / "data")
    spoil(data, "train-003")
    monkeypatch.chdir(tmp_path)
    arguments = ["extract", "--audio-encoder", "fourier2vec", "--threads", "1"]
    assert mervn(arguments) == 0
    counts = decoded(monkeypatch)
    assert mervn([*arguments, *flags]) == 0
    assert counts["train-003"] == len(flags)


def test_the_first_looks_at_the_units_of_others_are_close_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that had nothing left to do looked once per second, and a short extraction ended that much later."""
    info = create_store(tmp_path, TEXT_IDENTITY, {}, "m")
    plan, pauses = plan_of(2, info), list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            others.release(plan.unit_name(plan.units[0]))

    monkeypatch.setattr("features.extraction.scheduler.time.sleep", sleep)
    with Claims([info.path]) as others, Claims([info.path]) as claims:
        assert others.take(plan.unit_name(plan.units[0]))
        done = list(Scheduler(plan, [to(info)], claims).run(NullEngine(), SILENT, lambda _: None))
    assert len(done) == 2 and len(pauses) == 10
    assert pauses[0] <= 0.05 and sum(pauses[:5]) <= 1.0
    assert pauses == sorted(pauses) and max(pauses) == pauses[-1] == 1.0
