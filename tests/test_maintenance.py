"""Stores are verified, compacted, converted and removed beside readers and extractions; no utterance is lost."""

import contextlib
import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_store import contents, damage, make_store, other_than, parts, stored, write

from features.errors import InputError
from features.store import part_files
from features.store.claims import FOLDER, MAINTENANCE, REMOVAL, Claims
from features.store.index import list_stores
from features.store.maintenance import compact, convert, remove_store, verify
from features.store.part import read_part
from features.store.part_files import SUFFIXES, format_of, part_paths
from features.store.reader import FeatureStore
from features.store.summary import describe
from features.store.writer import PART_UTTERANCES

PLAIN_SCAN = part_files._scan


def test_verify_names_damaged_parts_and_sets_them_aside(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 20)], kind=kind)
    write(info, [stored("b", 20, 1)], kind=kind)
    found = verify(info.path, False, lambda _: None)
    assert (found.whole, found.faults) == (2, [])
    (bad,) = [path for path in parts(info) if read_part(path).utterance_ids == ["a"]]
    damage(bad, stored("a", 20).values[7])
    found = verify(info.path, False, lambda _: None)
    (fault,) = found.faults
    assert (found.whole, fault.path, fault.set_aside) == (1, bad, None) and "'a'" in fault.detail
    (fault,) = verify(info.path, True, lambda _: None).faults
    assert fault.set_aside is not None and fault.set_aside.exists() and not bad.exists()
    assert list(FeatureStore(info.path)) == ["b"]


def test_verify_names_a_part_whose_inode_the_disk_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression test: the error of the disk ended the command with a traceback."""
    info = make_store(tmp_path)
    write(info, [stored("a", 20)])
    write(info, [stored("b", 20, 1)])
    bad, gone = parts(info)
    plain = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        numbers = {bad: errno.EIO, gone: errno.ENOENT}
        if path in numbers:
            raise OSError(numbers[path], os.strerror(numbers[path]), str(path))
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", lstat)
        found = verify(info.path, True, lambda _: None)
    (fault,) = found.faults  # the other one is gone: another process removed it
    assert (found.whole, fault.path, fault.damaged, fault.set_aside) == (0, bad, False, None)
    assert "EIO" in fault.detail and bad.exists()
    assert verify(info.path, True, lambda _: None).whole == 2


def test_compacting_drops_only_superseded_features(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    for generation, lengths in enumerate([{"a": 1, "b": 2}, {"b": 3, "c": 0}, {"d": 4}]):
        write(info, [stored(name, size, generation) for name, size in lengths.items()], generation, kind)
    store = FeatureStore(info.path)
    store.remember_sources({"a": '{"path": "moved.wav"}'})
    before = {name: (store[name].tobytes(), store.utterance_info(name)) for name in store}
    done = compact(info.path)
    assert (done.parts_before, done.parts_after, done.superseded) == (3, 3, 1)  # one a generation
    again = FeatureStore(info.path)
    assert {name: (again[name].tobytes(), again.utterance_info(name)) for name in again} == before
    assert describe(again)["superseded"] == 0 and not (info.path / "sources.jsonl").exists()
    assert before["a"][1].source == '{"path": "moved.wav"}'
    assert compact(info.path).parts_after == 3


def test_small_parts_become_full_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.store.maintenance.JOINED_UTTERANCES", 32)
    info = make_store(tmp_path)
    for i in range(32 + 20):
        write(info, [stored(str(i), i % 3, i)])
    before = contents(info)
    assert compact(info.path).parts_after == 2 and contents(info) == before
    full = parts(info)
    assert compact(info.path).parts_after == 2 and parts(info) == full
    write(info, [stored(f"more-{i}", 1) for i in range(16)])  # half as many are enough
    assert compact(info.path).parts_after == 3 and parts(info) > full


def test_compacting_rewrites_nothing_that_it_cannot_join(tmp_path: Path) -> None:
    """Regression test: two parts of different generations were written again by each call."""
    info = make_store(tmp_path)
    for generation in range(2):
        write(info, [stored(f"{generation}-{i}", 1) for i in range(20)], generation)
    before = {path: path.stat().st_ino for path in parts(info)}
    assert compact(info.path).parts_after == 2
    assert {path: path.stat().st_ino for path in parts(info)} == before


def test_compacting_needs_room_for_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.store.maintenance.JOINED_UTTERANCES", 4)
    info = make_store(tmp_path)
    for i in range(11):
        write(info, [stored(str(i), 1, i)])
    before, sizes = contents(info), []
    plain = part_files.announce_removal

    def announce(store: Path) -> None:
        sizes.append(len(parts(info)))
        plain(store)

    monkeypatch.setattr("features.store.maintenance.announce_removal", announce)
    assert compact(info.path).parts_after == 3
    assert sizes == [12, 9, 6] and contents(info) == before


@pytest.mark.parametrize("steps", range(8))
def test_compacting_that_ends_anywhere_loses_nothing(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the new part is committed, or between the removals of the old ones."""
    monkeypatch.setattr("features.store.maintenance.JOINED_UTTERANCES", 4)
    info = make_store(tmp_path)
    for i in range(6):
        write(info, [stored(str(i), 1, i)])
    before, left = contents(info), [steps]

    def remove_some(path: Path, token: str | None = None) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        part_files.remove(path, token)

    with monkeypatch.context() as patch:
        patch.setattr("features.store.maintenance.remove", remove_some)
        ended = contextlib.suppress(KeyboardInterrupt) if steps < 6 else contextlib.nullcontext()
        with ended:
            compact(info.path)
    assert contents(info) == before and left[0] == max(0, steps - 6)
    compact(info.path)
    assert contents(info) == before and compact(info.path).superseded == 0 and len(parts(info)) == 2


def test_the_parts_of_an_extraction_are_joined(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    for first in range(0, 4 * PART_UTTERANCES, PART_UTTERANCES):
        write(info, [stored(str(i), 1, i) for i in range(first, first + PART_UTTERANCES)])
    before = contents(info)
    assert (len(parts(info)), compact(info.path).parts_after) == (4, 1)
    assert contents(info) == before


def test_converting_there_and_back_changes_nothing(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 700), stored("b", 0)], 2, kind)
    write(info, [stored("c", 5)], 0, kind)
    store = FeatureStore(info.path)
    before = {name: (store[name].tobytes(), store.utterance_info(name)) for name in store}
    other = next(name for name in SUFFIXES if name != kind)
    assert convert(info.path, other, lambda _: None) == 2
    assert {format_of(path) for path in parts(info)} == {other}
    assert convert(info.path, kind, lambda _: None) == 2 and convert(info.path, kind, lambda _: None) == 0
    again = FeatureStore(info.path)
    assert {name: (again[name].tobytes(), again.utterance_info(name)) for name in again} == before


def test_damage_stops_a_conversion_before_anything_is_lost(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 20)])
    damage(parts(info)[0], stored("a", 20).values[7])
    with pytest.raises(InputError, match="whose crc32 differs from the stored one"):
        convert(info.path, "zarr", lambda _: None)
    assert [path.suffix for path in parts(info)] == [".h5"]


def test_a_removed_store_is_gone_but_not_while_it_is_written_to(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)])
    with Claims([info.path]) as claims:
        assert claims.take("unit")
        with pytest.raises(InputError, match=":[0-9]+ is writing to .*; wait for it"):
            remove_store(info.path)
    assert remove_store(info.path) == 1
    assert not info.path.exists()
    with pytest.raises(InputError, match=r"but .*store\.json does not exist"):
        remove_store(info.path)


def test_a_scan_that_misses_old_and_new_parts_is_repeated(
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part converted during the scan of a folder can be missed in both formats: the store looked empty."""
    info = make_store(tmp_path)
    for i in range(3):
        write(info, [stored(str(i), 3, i)], kind=kind)

    def converted_meanwhile(folder: Path) -> list[str]:
        monkeypatch.setattr(part_files, "_scan", PLAIN_SCAN)
        before = PLAIN_SCAN(folder)
        convert(info.path, other_than(kind), lambda _: None)
        return [name for name in before if (folder / name).exists()]  # new parts came behind the cursor, old ones went

    monkeypatch.setattr(part_files, "_scan", converted_meanwhile)
    assert len(part_paths(info.path)) == 3
    convert(info.path, kind, lambda _: None)
    monkeypatch.setattr(part_files, "_scan", converted_meanwhile)
    assert sorted(FeatureStore(info.path)) == ["0", "1", "2"]


def test_a_store_stays_complete_during_repeated_conversion(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    for i in range(4):
        write(info, [stored(str(i), 3, i)])
    early, stop, failed = FeatureStore(info.path), threading.Event(), list[BaseException]()

    def maintain() -> None:
        try:
            for turn in range(8):
                convert(info.path, ("zarr", "hdf5")[turn % 2], lambda _: None)
            compact(info.path)
        except BaseException as error:
            failed.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=maintain)
    thread.start()
    while not stop.is_set():
        for store in (early, FeatureStore(info.path)):
            assert sorted(store) == ["0", "1", "2", "3"] and store.num_bytes
            for i in range(4):
                np.testing.assert_array_equal(store.check(str(i)), stored(str(i), 3, i).values)
            store.refresh()
    thread.join()
    assert not failed
    assert sorted(contents(info)) == ["0", "1", "2", "3"]


def test_a_part_set_aside_twice_keeps_both(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    for _ in range(3):
        write(info, [stored("a", 20)], kind=kind)
        damage(parts(info)[0], stored("a", 20).values[7])
        (fault,) = verify(info.path, True, lambda _: None).faults
        assert fault.set_aside is not None and fault.set_aside.exists()
    assert len(list(info.path.glob("*.damaged*"))) == 3 and len(FeatureStore(info.path)) == 0


def test_maintenance_removal_and_extraction_exclude_each_other(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)])
    with Claims([info.path]) as other:
        assert other.take(MAINTENANCE) and not Claims([info.path]).held()  # no unit of an extraction
        for command in (compact, lambda path: convert(path, "zarr", lambda _: None)):
            with pytest.raises(InputError, match=":[0-9]+ is compacting or converting .*; wait for it"):
                command(info.path)
        with pytest.raises(InputError, match=":[0-9]+ is writing to .*; wait for it"):
            remove_store(info.path)
        other.release(MAINTENANCE)
        assert other.take(REMOVAL)
        with Claims([info.path]) as extraction, pytest.raises(InputError, match=":[0-9]+ is removing "):
            extraction.take("unit")
        with pytest.raises(InputError, match=":[0-9]+ is removing "):
            compact(info.path)
    assert remove_store(info.path) == 1


@pytest.mark.parametrize("unit", ["unit", REMOVAL])
def test_a_claim_without_an_owner_has_a_holder_in_messages(tmp_path: Path, unit: str) -> None:
    """Its process has created the file, but not yet written it: the message began with `is writing to`."""
    info = make_store(tmp_path)
    (info.path / FOLDER).mkdir()
    (info.path / FOLDER / f"{unit}.json").touch()
    with pytest.raises(InputError, match="^another process is writing to .*; wait for it"):
        remove_store(info.path)
    if unit == REMOVAL:
        with Claims([info.path]) as claims, pytest.raises(InputError, match="^another process is removing "):
            claims.take("other")


def test_a_claim_in_a_removed_store_is_an_input_error(tmp_path: Path) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)])
    store = FeatureStore(info.path)
    with Claims([info.path]) as claims:
        remove_store(info.path)
        with pytest.raises(InputError, match="must be a feature store, but it was removed"):
            claims.take("unit")
    with pytest.raises(InputError, match="must be a feature store, but it was removed"):
        store.refresh()


def test_a_link_to_a_store_goes_with_the_store(tmp_path: Path) -> None:
    info = make_store(tmp_path / "disk")
    write(info, [stored("a", 2)])
    link = tmp_path / "features" / "audio" / info.path.name
    link.parent.mkdir(parents=True)
    link.symlink_to(info.path)
    with Claims([info.path]) as claims:
        assert claims.take("unit")
        with pytest.raises(InputError, match="is writing to"):
            remove_store(link)
    assert len(FeatureStore(link)) == 1
    assert remove_store(link) == 1
    assert not link.is_symlink() and not info.path.exists() and not list(info.path.parent.iterdir())


def test_a_removal_that_was_killed_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, other = make_store(tmp_path), make_store(tmp_path, layer=5)
    for one in (info, other):
        write(one, [stored("a", 2)])
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    remove_store(info.path)
    assert [found.path for found in list_stores(tmp_path)] == [other.path] and len(
        list(other.path.parent.iterdir())
    ) == 2
    monkeypatch.undo()
    remove_store(other.path)
    assert not list(other.path.parent.iterdir())
