"""Looking after a store: verify, set aside, compact, convert, remove."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import sync_folder
from features.errors import InputError
from features.store.claims import FOLDER as CLAIMS_FOLDER
from features.store.claims import MAINTENANCE, REMOVAL, Claims
from features.store.faults import FAULTS, DamagedPartError, PartError, VanishedPartError, damaged, part_error
from features.store.identity import StoreInfo, read_store_info
from features.store.part import (
    DAMAGED,
    Part,
    StoredUtterance,
    announce_removal,
    format_of,
    part_paths,
    read_columns,
    read_part,
    remove,
)
from features.store.reader import SOURCES_FILE, FeatureStore, origins
from features.store.writer import PART_BYTES, PART_UTTERANCES, StoreWriter, new_token

REMOVED = ".removed.tmp"
"""Ends the name of a store that is being removed."""


@dataclass(frozen=True)
class Fault:
    """A part that is damaged, or that could not be read."""

    path: Path
    why: str
    damaged: bool
    """False if the system did not let it be read: nothing is known about its content."""
    set_aside: Path | None
    """Where it is now, if it was set aside."""


@dataclass(frozen=True)
class Verification:
    """What verifying found."""

    whole: int
    """Utterances whose every byte is as it was written."""
    faults: list[Fault]
    made_with: list[dict[str, Any]]
    """Versions and devices that computed the whole parts."""


def verify(store: Path, set_aside: bool, update: Callable[[int], object]) -> Verification:
    """Read every byte of a store and compare it with its checksums.

    Parts that cannot be trusted are renamed if `set_aside`, so that the next extraction encodes their utterances anew;
    parts that cannot be read now are not. `update` is called with 1 for each part.
    """
    info = read_store_info(store)
    whole: list[Part] = []
    faults: list[Fault] = []
    for path in part_paths(store):
        try:
            inode = path.lstat().st_ino
            whole.append(_verify_part(path, info))
        except (FileNotFoundError, VanishedPartError):  # compacted away meanwhile
            continue
        except DamagedPartError as error:
            target = _set_aside(path, inode) if set_aside else None
            faults.append(Fault(path, error.why, True, target))
        except PartError as error:
            faults.append(Fault(path, error.why, False, None))
        update(1)
    return Verification(sum(len(part.utterance_ids) for part in whole), faults, origins(whole))


def _set_aside(path: Path, inode: int) -> Path | None:
    """Rename a damaged part; None if it has gone or was replaced since it was read."""
    count = 1
    target = path.with_name(path.name + DAMAGED)
    while target.exists() or target.is_symlink():
        count += 1
        target = path.with_name(f"{path.name}{DAMAGED}-{count}")
    try:
        if path.lstat().st_ino != inode:
            return None
        path.rename(target)
    except FileNotFoundError:
        return None
    sync_folder(path.parent)
    return target


def _verify_part(path: Path, info: StoreInfo) -> Part:
    """Read every byte of a part; PartError if it cannot be trusted or read."""
    part, columns = read_part(path), read_columns(path, info.modality)
    _ = part.made_with  # has a checksum too
    dim, dtype = info.identity["dim"], {"fp16": "float16", "fp32": "float32"}[info.identity["store_dtype"]]
    if part.mapped.shape[1] != dim or part.mapped.dtype.name != dtype:
        raise damaged(path, f"rows of {part.mapped.shape[1]} x {part.mapped.dtype}, not of {dim} x {dtype}")
    frame_bytes = part.mapped.dtype.itemsize * dim
    try:
        # read and not mapped: a disk that fails raises an error here, and would end the process there
        with part.mapped.file.open("rb") as file:
            file.seek(part.mapped.offset)
            for row, name in enumerate(part.utterance_ids):
                count = int(part.offsets[row + 1] - part.offsets[row])
                if zlib.crc32(file.read(count * frame_bytes)) != columns.crc32[row]:
                    raise damaged(path, f"rows of {name!r} with another crc32 than the one written with them")
    except FAULTS as error:
        raise part_error(path, error) from error
    return part


@dataclass(frozen=True)
class Compaction:
    """What compacting did."""

    parts_before: int
    parts_after: int
    superseded: int
    """Rows dropped because newer or equal ones stand elsewhere."""


@contextmanager
def _maintaining(store: Path) -> Iterator[Claims]:
    """Keep other processes from compacting, converting or removing a store meanwhile."""
    read_store_info(store)
    with Claims([store]) as claims:
        if not claims.take(MAINTENANCE):
            holders = ", ".join(claims.holders([MAINTENANCE])) or "another process"
            raise InputError(f"{store} is being compacted or converted by {holders}; wait for it, or stop it")
        yield claims


def compact(store: Path) -> Compaction:
    """Gather small parts into full ones and drop rows that no longer count.

    New parts are committed before old ones go, so that a reader, or a crash, finds every row at any moment.
    """
    with _maintaining(store) as claims:
        opened = FeatureStore(store)
        parts = opened.parts
        live = {part.path: opened.part_utterances(part) for part in parts}
        superseded = sum(len(part.utterance_ids) - len(live[part.path]) for part in parts)
        remembered = (store / SOURCES_FILE).exists()
        # if sources were remembered, every part takes in where its audio is now
        old = [part for part in parts if remembered or not _is_full(part, live[part.path])]
        if len(old) > 1 or superseded or remembered:
            written = _rewrite(opened, old, live, None, claims.token)
            announce_removal(store)
            for part in old:
                if part.path not in written:
                    remove(part.path, claims.token)
            (store / SOURCES_FILE).unlink(missing_ok=True)
            sync_folder(store)
    return Compaction(len(parts), len(part_paths(store)), superseded)


def _is_full(part: Part, live: list[str]) -> bool:
    if len(live) < len(part.utterance_ids):
        return False
    return len(live) >= PART_UTTERANCES or part.mapped.nbytes >= PART_BYTES // 2


def convert(store: Path, kind: str, update: Callable[[int], object]) -> int:
    """Rewrite a store's parts in a format, one after another; return how many. InputError names a damaged part."""
    with _maintaining(store) as claims:
        opened = FeatureStore(store)
        old = [part for part in opened.parts if format_of(part.path) != kind]
        live = {part.path: opened.part_utterances(part) for part in old}
        for part in old:
            _rewrite(opened, [part], live, kind, claims.token)
            announce_removal(store)
            remove(part.path, claims.token)
            update(1)
        sync_folder(store)
    return len(old)


def _rewrite(
    store: FeatureStore, parts: Iterable[Part], live: dict[Path, list[str]], kind: str | None, token: str
) -> set[Path]:
    """Write the rows of parts that count into new parts, checked on the way, and return those."""
    groups: dict[tuple[int, str, str], list[str]] = {}
    for part in parts:
        group = part.generation, kind or format_of(part.path), json.dumps(part.made_with, sort_keys=True)
        groups.setdefault(group, []).extend(live[part.path])
    written: set[Path] = set()
    for (generation, wanted, made_with), names in groups.items():
        with StoreWriter(store.info, generation, wanted, token, json.loads(made_with)) as writer:
            for name in names:
                info = store.utterance_info(name)
                values = store.check(name)
                writer.add([StoredUtterance(name, values, info.num_inputs, info.input_sha256, info.source)])
        written |= set(writer.parts)
    return written


def remove_store(store: Path) -> int:
    """Remove a store and return how many utterances it held; InputError if it is no store or being written to.

    A symbolic link to a store is removed together with the store.
    """
    read_store_info(store)
    try:
        count = len(FeatureStore(store))
    except InputError:  # a damaged store goes too
        count = 0
    target = store.resolve()
    gone = target.with_name(f".{target.name}.{new_token()}{REMOVED}")
    with Claims([target]) as claims:
        taken = claims.take(REMOVAL)
        held = {path.stem for path in (target / CLAIMS_FOLDER).glob("*.json")}
        others = sorted(held - {REMOVAL} if taken else held)
        if others:
            holders = ", ".join(claims.holders(others))
            raise InputError(f"{store} is being written to by {holders}; wait for it, or stop it")
        target.rename(gone)  # in one step: nobody finds half a store
    if store.is_symlink():
        store.unlink()
    for folder in target.parent.glob(f".*{REMOVED}"):  # and what a removal that was killed has left
        shutil.rmtree(folder, ignore_errors=True)
    return count
