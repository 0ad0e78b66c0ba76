"""Parts: none is replaced by a part of other utterances, and each records the versions that computed it."""

import errno
import json
import os
import resource
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_store import make_store, other_than, parts, stored, write

from features.errors import InputError
from features.store.faults import DamagedPartError, UnreadablePartError
from features.store.maintenance import compact, convert, verify
from features.store.part import columns_crc32, crc32, read_part
from features.store.part_files import SUFFIXES, part_paths
from features.store.part_writer import write_part
from features.store.reader import FeatureStore
from features.store.summary import describe
from features.store.writer import StoreWriter


def test_a_part_of_other_utterances_is_never_replaced(tmp_path: Path, kind: str) -> None:
    """A name of 32 bits over the ids: where two parts had one name, HDF5 replaced the first by the second."""
    info = make_store(tmp_path)
    wanted = write_part(info.path, "audio", [stored("a", 2)], 0, kind, "t")
    taken = wanted.name
    for number in range(2):
        wanted.rename(tmp_path / f"set-aside-{number}")
        other = write_part(info.path, "audio", [stored(f"other-{number}", 3)], 0, kind, "t")
        other.rename(info.path / taken)
        wanted = write_part(info.path, "audio", [stored("a", 2)], 0, kind, "t")
        taken = wanted.name
    assert sorted(FeatureStore(info.path)) == ["a", "other-0", "other-1"]
    assert len(list(info.path.glob(f"part-*{SUFFIXES[kind]}"))) == 3


def test_the_name_of_a_part_follows_from_everything_but_its_values(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    first = stored("a", 2)
    variants = [
        (first, 0), (first, 1), (stored("b", 2), 0), (replace(first, input_sha256="sha-other"), 0),
        (replace(first, num_inputs=641), 0), (replace(first, source="{}"), 0),
    ]  # fmt: skip
    paths = [write_part(info.path, "audio", [one], generation, kind, "t") for one, generation in variants]
    assert len(set(paths)) == len(variants)
    assert all(len(path.name.removeprefix("part-").removesuffix(path.suffix)) >= 16 for path in paths)


def test_of_equal_utterances_the_first_part_stays(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)], kind=kind)
    (path,) = parts(info)
    before = path.stat()
    write(info, [replace(stored("a", 2), values=stored("a", 2).values + 1)], kind=kind)
    assert parts(info) == [path] and path.stat().st_ino == before.st_ino
    assert not list(info.path.glob(".*.tmp"))


def test_parts_with_short_names_stay_readable(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)], kind=kind)
    parts(info)[0].rename(info.path / f"part-0badcafe{SUFFIXES[kind]}")
    write(info, [stored("b", 2)], kind=kind)
    assert sorted(FeatureStore(info.path)) == ["a", "b"]
    assert compact(info.path).parts_after == 1 and sorted(FeatureStore(info.path)) == ["a", "b"]


def test_compacting_one_part_merges_its_new_source(tmp_path: Path, kind: str) -> None:
    """The name left the source out: a Zarr part stayed as it was, and what had been remembered was deleted."""
    info = make_store(tmp_path)
    write(info, [stored("a", 2)], kind=kind)
    FeatureStore(info.path).remember_sources({"a": '{"path": "moved.wav"}'})
    compact(info.path)
    assert FeatureStore(info.path).utterance_info("a").source == '{"path": "moved.wav"}'


TROUBLE = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.ESTALE, errno.EIO]
RAISED: list[BaseException] = [
    *(OSError(number, os.strerror(number)) for number in TROUBLE),
    MemoryError(),
    KeyError("Unable to open object (file read failed: errno = 5, error message = 'Input/output error')"),
    RuntimeError("Unable to get the group (memory allocation failed for raw data chunk)"),
]


@pytest.mark.parametrize("error", RAISED, ids=str)
def test_system_errors_are_not_reported_as_damage(
    tmp_path: Path,
    kind: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)], kind=kind)

    def trouble(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(f"features.store.{kind}.read", trouble)
    with pytest.raises(UnreadablePartError, match=r"cannot be read now: E[A-Z]+, .*says nothing about its content"):
        FeatureStore(info.path)
    (fault,) = verify(info.path, True, lambda _: None).faults
    assert not fault.damaged and fault.set_aside is None and parts(info) == [fault.path]


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Leave this process no descriptor to open a file with."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
        try:
            while True:
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError:
            yield


def test_missing_descriptors_are_not_reported_as_damage(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    write(info, [stored("a", 2)], kind=kind)
    (path,) = parts(info)
    read_part(path)
    store = FeatureStore(info.path)
    with no_descriptors_left():
        for read in (lambda: read_part(path), lambda: store["a"]):
            with pytest.raises(UnreadablePartError, match=r"EMFILE, .*raise the limit of open files"):
                read()
        with pytest.raises(InputError, match="cannot be listed now: .*Too many open files"):
            store.refresh()
    assert len(store["a"]) == 2


def test_a_link_whose_target_is_missing_is_not_damage(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    (info.path / f"part-0000000000000000{SUFFIXES[kind]}").symlink_to(tmp_path / "unmounted")
    with pytest.raises(UnreadablePartError, match="ENOENT"):
        FeatureStore(info.path)
    (fault,) = verify(info.path, True, lambda _: None).faults
    assert not fault.damaged and len(parts(info)) == 1


def test_each_part_records_its_versions(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    old, new = {"torch": "1.0", "device": "cpu"}, {"torch": "2.0", "device": "cpu"}
    for number, made_with in enumerate((old, new, old, {})):
        with StoreWriter(info, 0, kind, made_with=made_with) as writer:
            writer.add([stored(str(number), 2)])
    assert {read_part(path).utterance_ids[0]: read_part(path).made_with for path in parts(info)} == {
        "0": old, "1": new, "2": old, "3": {},
    }  # fmt: skip
    expected = [
        {"parts": 1, "utterances": 1}, {**old, "parts": 2, "utterances": 2}, {**new, "parts": 1, "utterances": 1}
    ]  # fmt: skip

    def found() -> list[dict[str, Any]]:
        assert describe(FeatureStore(info.path))["made_with"] == [
            origin.as_json() for origin in verify(info.path, False, lambda _: None).made_with
        ]
        return sorted(describe(FeatureStore(info.path))["made_with"], key=lambda entry: entry.get("torch", ""))

    assert found() == expected
    convert(info.path, other_than(kind), lambda _: None)
    assert found() == expected
    compact(info.path)  # utterances of different versions stay in different parts
    expected[1]["parts"] = 1
    assert found() == expected


def test_a_flipped_bit_in_the_versions_is_damage(tmp_path: Path, kind: str) -> None:
    info = make_store(tmp_path)
    with StoreWriter(info, 0, kind, made_with={"torch": "2.9.7"}) as writer:
        writer.add([stored("a", 2)])
    (path,) = part_paths(info.path)
    file = path / "zarr.json" if path.is_dir() else path
    content = file.read_bytes()
    assert content.count(b"2.9.7") == 1
    file.write_bytes(content.replace(b"2.9.7", b"2.9.6"))
    (fault,) = verify(info.path, False, lambda _: None).faults
    assert fault.damaged and fault.detail
    with pytest.raises(DamagedPartError, match="must be an undamaged part") as caught:
        describe(FeatureStore(info.path))
    assert (caught.value.path, caught.value.detail) == (path, fault.detail)


@pytest.mark.parametrize(
    "strings",
    [
        [],
        [""],
        ["a", " ~", ""],
        ["ừ", "a"],
        ['"', "a"],
        ["a\\", "b"],
        ["\x7f"],
        ['", "'],
        ["a\0b", "c"],
        ["\0"],
        ['c"\\"', "\\"],
    ],
)
def test_the_crc32_of_strings_is_that_of_their_json(strings: list[str]) -> None:
    expected = zlib.crc32(json.dumps(strings).encode(), 7)
    assert columns_crc32([[string.encode() for string in strings]], 7) == expected
    assert columns_crc32([[string.encode() for string in [*strings, "b"]]], 7) != expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_crc32_of_features_is_that_of_the_standard_library(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for shape in ((0, 8), (1, 1), (3, 5), (1000, 257)):
        values = rng.standard_normal(shape).astype(dtype)
        assert crc32(values) == zlib.crc32(values.tobytes())
        assert crc32(values[:, ::2]) == zlib.crc32(values[:, ::2].tobytes())  # not contiguous
    changed = values.copy()
    changed.view(np.uint8)[500, 3] ^= 1
    assert crc32(changed) != crc32(values)
