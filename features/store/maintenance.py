"""Looking after a store: verify, set aside, compact, convert, remove."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from features.errors import InputError
from features.store.claims import FOLDER as CLAIMS_FOLDER
from features.store.claims import Claims
from features.store.identity import STORE_FILE, read_store_info, sync_folder
from features.store.locks import store_lock
from features.store.part import DAMAGED, Part, Row, crc32, format_of, part_paths, read_columns, read_part, remove
from features.store.reader import SOURCES_FILE, FeatureStore
from features.store.writer import PART_BYTES, PART_ROWS, StoreWriter, new_token


@dataclass(frozen=True)
class Fault:
    """A damaged part."""

    path: Path
    why: str
    set_aside: Path | None
    """Where it is now, if it was set aside."""


def verify(store: Path, set_aside: bool, update: Callable[[int], object]) -> tuple[int, list[Fault]]:
    """Read every byte of a store and compare it with its checksums; return how many utterances are whole, and faults.

    Parts that cannot be trusted are renamed if `set_aside`, so that the next extraction encodes their utterances anew.
    `update` is called with 1 for each part.
    """
    info = read_store_info(store)
    whole, faults = 0, []
    for path in part_paths(store):
        try:
            whole += _verify_part(path, info.modality, int(info.identity["dim"]), str(info.identity["store_dtype"]))
        except InputError as error:
            if not path.exists():  # compacted away meanwhile
                continue
            target = path.with_name(path.name + DAMAGED) if set_aside else None
            if target is not None:
                path.rename(target)
                sync_folder(store)
            faults.append(Fault(path, str(error).partition("found: ")[2].partition(". Set it aside")[0], target))
        update(1)
    return whole, faults


def _verify_part(path: Path, modality: str, dim: int, dtype: str) -> int:
    part, columns = read_part(path), read_columns(path, modality)
    expected = {"fp16": "float16", "fp32": "float32"}[dtype]
    if part.values.shape[1] != dim or part.values.dtype.name != expected:
        found = f"rows of {part.values.shape[1]} x {part.values.dtype}, not of {dim} x {expected}"
        raise InputError(f"found: {found}")
    for row, name in enumerate(part.utterance_ids):
        if crc32(part.values[part.offsets[row] : part.offsets[row + 1]]) != columns.crc32[row]:
            raise InputError(f"found: rows of {name!r} with another crc32 than the one written with them")
    return len(part.utterance_ids)


@dataclass(frozen=True)
class Compaction:
    """What compacting did."""

    parts_before: int
    parts_after: int
    superseded: int
    """Rows dropped because newer or equal ones stand elsewhere."""


def compact(store: Path) -> Compaction:
    """Gather small parts into full ones and drop rows that no longer count.

    New parts are committed before old ones go, so that a reader, or a crash, finds every row at any moment.
    """
    with store_lock(store), Claims([store]):
        opened = FeatureStore(store)
        parts = opened.parts
        live = {path: opened.part_rows(path) for path in parts}
        total = sum(len(read_part(path).utterance_ids) for path in parts)
        superseded = total - sum(map(len, live.values()))
        full = {path for path in parts if _is_full(read_part(path), live[path])}
        old = [path for path in parts if path not in full]
        remembered = (store / SOURCES_FILE).exists()
        if remembered:
            full, old = set(), parts  # every part takes in where its audio is now
        if len(old) > 1 or superseded or remembered:
            written = _rewrite(opened, old, live, None)
            for path in old:
                if path not in written:
                    remove(path)
            (store / SOURCES_FILE).unlink(missing_ok=True)
            sync_folder(store)
    return Compaction(len(parts), len(part_paths(store)), superseded)


def _is_full(part: Part, live: list[str]) -> bool:
    if len(live) < len(part.utterance_ids):
        return False
    return len(live) >= PART_ROWS or part.values.nbytes >= PART_BYTES // 2


def convert(store: Path, kind: str, update: Callable[[int], object]) -> int:
    """Rewrite a store's parts in a format, one after another; return how many. InputError names a damaged part."""
    with store_lock(store), Claims([store]):
        opened = FeatureStore(store)
        old = [path for path in opened.parts if format_of(path) != kind]
        for path in old:
            names = opened.part_rows(path)
            if names:
                _rewrite(opened, [path], {path: names}, kind)
            remove(path)
            update(1)
        sync_folder(store)
    return len(old)


def _rewrite(store: FeatureStore, parts: Iterable[Path], live: dict[Path, list[str]], kind: str | None) -> set[Path]:
    """Write the rows of parts that count into new parts, checked on the way, and return those."""
    token = new_token()
    groups: dict[tuple[int, str], list[str]] = {}
    for path in parts:
        for name in live[path]:
            groups.setdefault((store.generation(name), kind or format_of(path)), []).append(name)
    written: set[Path] = set()
    for (generation, wanted), names in groups.items():
        with StoreWriter(store.info, generation, wanted, token) as writer:
            for name in names:
                info = store.row_info(name)
                values = store.check(name)
                writer.add([Row(name, values, info.num_inputs, info.input_sha256, info.source)])
        written |= set(writer.parts)
    return written


def remove_store(store: Path) -> int:
    """Remove a store and return how many utterances it held; InputError if it is no store or being written to."""
    read_store_info(store)
    try:
        count = len(FeatureStore(store))
    except InputError:  # a damaged store goes too
        count = 0
    with Claims([store]) as claims:
        held = [path.stem for path in (store / CLAIMS_FOLDER).glob("*.json")]
        if held:
            holders = ", ".join(claims.holders(held))
            raise InputError(f"{store} is being written to by {holders}; wait for it, or stop it")
        (store / STORE_FILE).unlink()  # without it nobody takes the rest for a store
    shutil.rmtree(store)
    return count
