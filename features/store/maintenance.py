"""Maintenance of a store: verify, set damaged parts aside, compact, convert, remove."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from zlib_ng import zlib_ng

from features.atomic_files import sync_folder
from features.errors import InputError
from features.store.claims import FOLDER as CLAIMS_FOLDER
from features.store.claims import MAINTENANCE, REMOVAL, Claims
from features.store.faults import FAULTS, DamagedPartError, PartError, VanishedPartError, damaged, part_error
from features.store.identity import StoreInfo, read_store_info
from features.store.mapped import Array
from features.store.open_parts import check_shape
from features.store.part import DTYPES, Part, read_columns, read_part
from features.store.part_files import DAMAGED, announce_removal, format_of, part_paths, remove
from features.store.reader import FeatureStore, other_crc32
from features.store.sources import SOURCES_FILE
from features.store.summary import Origin, origins
from features.store.writer import PART_BYTES, StoreWriter, new_token

JOINED_UTTERANCES = 1024
"""Maximum number of utterances of a part that is written here. An extraction writes smaller ones, to lose less
if it is killed; a store with fewer parts opens faster."""
REMOVED = ".removed.tmp"
"""Suffix of the name of a store that is being removed."""


@dataclass(frozen=True)
class Fault:
    """A part that is damaged or cannot be read."""

    path: Path
    detail: str
    """The reason, without the path."""
    damaged: bool
    """False if the part cannot be read now: nothing is known about its content."""
    set_aside: Path | None
    """New path of the part, if it was set aside."""


@dataclass(frozen=True)
class Verification:
    """Result of `verify`."""

    whole: int
    """Number of utterances in parts without damage."""
    faults: list[Fault]
    made_with: list[Origin]
    """What computed the parts without damage."""


def verify(store: Path, set_aside: bool, update: Callable[[int], object]) -> Verification:
    """Read every byte of a store and compare it with its checksums.

    With `set_aside`, damaged parts are renamed, so that the next extraction encodes their
    utterances again. Parts that cannot be read now are never renamed. `update` is called with 1 for
    each part.
    """
    info = read_store_info(store)
    whole: list[Part] = []
    faults: list[Fault] = []
    for path in part_paths(store):
        try:
            inode = _inode(path)
            whole.append(_verify_part(path, info))
        except VanishedPartError:  # another process compacted or converted it
            continue
        except DamagedPartError as error:
            target = _set_aside(path, inode) if set_aside else None
            faults.append(Fault(error.path, error.detail, True, target))
        except PartError as error:
            faults.append(Fault(error.path, error.detail, False, None))
        update(1)
    return Verification(sum(map(len, whole)), faults, origins(whole))


def _inode(path: Path) -> int:
    """Return the inode of a part; raises PartError if it cannot be found out."""
    try:
        return path.lstat().st_ino
    except OSError as error:
        raise part_error(path, error) from error


def _set_aside(path: Path, inode: int) -> Path | None:
    """Rename a damaged part and return its new path.

    Returns None if it was removed or replaced since it was read: its inode is no longer `inode`.
    """
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
    """Read every byte of a part; raises PartError if it is damaged or cannot be read."""
    part, columns = read_part(path), read_columns(path, info.modality)
    _ = part.made_with  # raises PartError if its checksum differs
    dim, dtype = info.identity.dim, DTYPES[info.identity.store_dtype]
    check_shape(part, dim, dtype)
    frame_bytes = dtype.itemsize * dim
    try:
        # A plain read, not a mapping: if the disk fails, a read raises an error, but a mapping
        # kills the process.
        with part.mapped.file.open("rb") as file:
            file.seek(part.mapped.offset)
            for index, name in enumerate(part.utterance_ids):
                stored = file.read(part.num_frames(index) * frame_bytes)
                if zlib_ng.crc32(stored) != columns.crc32[index]:
                    raise damaged(path, other_crc32(name))
    except FAULTS as error:
        raise part_error(path, error) from error
    return part


@dataclass(frozen=True)
class Compaction:
    """Result of `compact`."""

    parts_before: int
    parts_after: int
    superseded: int
    """Number of dropped features of utterances: another part holds newer or equal ones."""


@contextmanager
def _maintaining(store: Path) -> Iterator[Claims]:
    """Prevent other processes from compacting, converting or removing a store during the block."""
    read_store_info(store)
    with Claims([store]) as claims:
        if not claims.take(MAINTENANCE):
            holders = claims.describe_holders([MAINTENANCE])
            raise InputError(f"{holders} is compacting or converting {store}; wait for it, or stop it")
        yield claims


def compact(store: Path) -> Compaction:
    """Join small parts and drop superseded features.

    A new part is committed before the parts that it replaces are removed: at any moment, also after a crash,
    every utterance is stored, and the disk needs room for one part.
    """
    with _maintaining(store) as claims:
        opened = FeatureStore(store)
        parts, live = opened.parts, opened.places_by_part()
        superseded = sum(map(len, parts)) - len(opened)
        # if there are new source records, they are merged into the parts: rewrite all
        remembered = (store / SOURCES_FILE).exists()
        old = [part for part in parts if remembered or not _is_full(part, len(live[part.path]))]
        for joined in _to_join(old, live):
            if len(joined) > 1 or remembered or len(live[joined[0].path]) < len(joined[0]):
                _replace(opened, joined, live, None, claims.token)
        if remembered:
            (store / SOURCES_FILE).unlink(missing_ok=True)
        sync_folder(store)
    return Compaction(len(parts), len(part_paths(store)), superseded)


def _to_join(parts: Iterable[Part], live: Mapping[Path, Array]) -> Iterator[list[Part]]:
    """Yield lists of parts of one kind, each list as long as fits into one part.

    If none of the parts is full, all lists but the last of a kind give a full part.
    """
    # a part has one generation, one format and one made_with
    kinds: dict[tuple[int, str, str], list[Part]] = {}
    for part in parts:
        kind = part.generation, format_of(part.path), json.dumps(part.made_with, sort_keys=True)
        kinds.setdefault(kind, []).append(part)
    for same in kinds.values():
        joined: list[Part] = []
        count = size = 0
        for part in same:
            more = len(live[part.path])
            if joined and (count + more > JOINED_UTTERANCES or size + part.mapped.nbytes > PART_BYTES):
                yield joined
                joined, count, size = [], 0, 0
            joined.append(part)
            count, size = count + more, size + part.mapped.nbytes
        yield joined


def _is_full(part: Part, num_live: int) -> bool:
    """Tell whether compacting can skip a part: no utterance was replaced, and it is large."""
    if num_live < len(part):
        return False
    return num_live >= JOINED_UTTERANCES // 2 or part.mapped.nbytes >= PART_BYTES // 2


def convert(store: Path, kind: str, update: Callable[[int], object]) -> int:
    """Rewrite parts of other formats in the format `kind`, one by one.

    Returns their number. Raises InputError if a part is damaged. `update` is called with 1 for each
    rewritten part.
    """
    with _maintaining(store) as claims:
        opened = FeatureStore(store)
        old = [part for part in opened.parts if format_of(part.path) != kind]
        live = opened.places_by_part()
        for part in old:
            _replace(opened, [part], live, kind, claims.token)
            update(1)
        sync_folder(store)
    return len(old)


def _replace(
    store: FeatureStore, parts: Sequence[Part], live: Mapping[Path, Array], kind: str | None, token: str
) -> None:
    """Write the utterances at the `live` places of parts of one kind into new parts, and remove the old ones.

    The features are checked by their crc32 before. `kind` is the format of the new parts (None: that of the old ones).
    """
    first = parts[0]
    wanted, made_with = kind or format_of(first.path), first.made_with
    with StoreWriter(store.info, first.generation, wanted, token, made_with, JOINED_UTTERANCES) as writer:
        for utterance in store.stored_utterances(np.concatenate([live[part.path] for part in parts])):
            writer.add([utterance])
    announce_removal(store.path)
    for part in parts:
        if part.path not in writer.parts:
            remove(part.path, token)


def remove_store(store: Path) -> int:
    """Remove a store and return its number of utterances (0 if it is damaged).

    Raises InputError if it is not a store, or if another process writes to it. If `store` is a
    symbolic link, both the link and the store are removed.
    """
    read_store_info(store)
    try:
        count = len(FeatureStore(store))
    except InputError:  # damaged stores can be removed too
        count = 0
    # rename the real folder: renaming a link would leave the features in place
    target = store.resolve()
    renamed = target.with_name(f".{target.name}.{new_token()}{REMOVED}")
    with Claims([target]) as claims:
        taken = claims.take(REMOVAL)
        held = {path.stem for path in (target / CLAIMS_FOLDER).glob("*.json")}
        others = sorted(held - {REMOVAL} if taken else held)
        if others:
            holders = claims.describe_holders(others)
            raise InputError(f"{holders} is writing to {store}; wait for it, or stop it")
        target.rename(renamed)  # one step: no process finds half a store
    if store.is_symlink():
        store.unlink()
    for folder in target.parent.glob(f".*{REMOVED}"):  # includes leftovers of killed removals
        shutil.rmtree(folder, ignore_errors=True)
    return count
