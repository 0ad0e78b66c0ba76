"""Writing of parts: a part is written to a temporary file, which a rename commits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from zlib_ng import zlib_ng

from features.atomic_files import sync, sync_folder
from features.store.faults import VanishedPartError
from features.store.part import (
    INDEX,
    NUM_INPUTS,
    Column,
    StoredUtterance,
    columns_crc32,
    crc32,
    format_module,
    read_part,
)
from features.store.part_files import SUFFIXES, remove

NAME_DIGITS = (16, 32, 64)
"""Hex digits of a part's name; more are used only if other utterances have the shorter name."""


def write_part(
    folder: Path,
    modality: str,
    utterances: Sequence[StoredUtterance],
    generation: int,
    kind: str,
    token: str,
    made_with: Mapping[str, str] | None = None,
) -> Path:
    """Write utterances as one immutable part of format `kind` and return its path.

    The rename is the commit. The name is a hash of everything except the values: if the same
    utterances are written twice, the first part stays. `token` is part of the name of the temporary
    file: it tells other processes whose file it is.
    """
    columns = _columns_of(utterances, modality)
    inputs = [column for name, column in columns.items() if name not in INDEX]
    origin = json.dumps(dict(made_with or {}), sort_keys=True)
    attributes: dict[str, int | str] = {
        "generation": generation,
        "index_crc32": columns_crc32([columns[name] for name in INDEX], generation),
        "columns_crc32": columns_crc32(inputs, 0),
        "made_with": origin,
        "made_with_crc32": zlib_ng.crc32(origin.encode()),
    }
    path = _free_path(folder, utterances, generation, SUFFIXES[kind])
    temporary = folder / f".{path.name}.{token}.tmp"
    try:
        values = [utterance.values for utterance in utterances]
        format_module(path).write(temporary, values, columns, attributes)
        sync(temporary)
        _commit(temporary, path)
    finally:
        remove(temporary)
    sync_folder(folder)
    return path


def _columns_of(utterances: Sequence[StoredUtterance], modality: str) -> dict[str, Column]:
    """Return the columns of a part, with one entry per utterance (`offsets` has one more)."""
    offsets, ids, num_inputs, hashes, sources, checksums = [0], [], [], [], [], []
    for utterance in utterances:
        offsets.append(offsets[-1] + utterance.values.shape[0])
        ids.append(utterance.utterance_id.encode())
        num_inputs.append(utterance.num_inputs)
        hashes.append(utterance.input_sha256.encode())
        sources.append(utterance.source.encode())
        checksums.append(crc32(utterance.values))
    return {  # the checksums depend on this order
        "offsets": np.array(offsets, np.int64),
        "utterance_id": ids,
        NUM_INPUTS[modality]: np.array(num_inputs, np.int64),
        "input_sha256": hashes,
        "source": sources,
        "crc32": np.array(checksums, np.uint32),
    }


def _free_path(folder: Path, utterances: Sequence[StoredUtterance], generation: int, suffix: str) -> Path:
    """Return the path of a part; its name is longer if other utterances have the short one."""
    inputs, ids = [], []
    for one in utterances:
        inputs.append([one.utterance_id, one.num_inputs, one.input_sha256, one.source])
        ids.append(one.utterance_id)
    digest = hashlib.sha256(json.dumps([generation, inputs]).encode()).hexdigest()
    # short names can collide; the longest one is used even if it exists
    for count in NAME_DIGITS:
        path = folder / f"part-{digest[:count]}{suffix}"
        if not path.exists() or _holds(path, ids, generation):
            break
    return path


def _holds(path: Path, ids: list[str], generation: int) -> bool:
    """Tell whether a part holds these utterances.

    Returns True if it was removed meanwhile: its name is free then.
    """
    try:
        part = read_part(path)
    except VanishedPartError:
        return True
    return list(part.utterance_ids) == ids and part.generation == generation


def _commit(temporary: Path, path: Path) -> None:
    """Rename the temporary file, unless the same utterances are already committed."""
    if path.exists():
        return
    try:
        temporary.replace(path)
    except OSError:
        # another process committed the same folder between the check and the rename
        if not path.is_dir():
            raise
