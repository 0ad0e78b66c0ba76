"""Zarr v3 parts: uncompressed values in one shard, mapped as one array.

To read utterance i without this package:

    group = zarr.open_group(path)
    start, end = group["offsets"][i : i + 2]
    features = group["values"][start:end]

zarr-python writes parts, but this module reads the files itself: a shard whose inner chunks are in
order and without gaps is one contiguous array.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.store.mapped import Array, MappedArray
from features.store.part import Column, Content

CHUNK_FRAMES = 512
"""Frames per inner chunk."""
METADATA = "zarr.json"
BYTES = [{"name": "bytes", "configuration": {"endian": "little"}}]
"""Codecs of uncompressed little-endian numbers."""
INDEX_ENTRY, INDEX_CRC = 16, 4
"""Bytes of one index entry of a shard (offset and size of an inner chunk, uint64 little-endian),
and of the checksum after the entries."""


def write(
    path: Path, values: Sequence[Array], columns: Mapping[str, Column], attributes: Mapping[str, int | str]
) -> None:
    """Write a part as a Zarr group."""
    import zarr

    packed = np.concatenate(values)
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes=dict(attributes))
    # round up to whole inner chunks; an empty array still needs one
    shard = max(1, -(-len(packed) // CHUNK_FRAMES)) * CHUNK_FRAMES
    # chunks of zeros must be written too, else there are gaps
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = group.create_array(
            "values", shape=packed.shape, dtype=packed.dtype, chunks=(CHUNK_FRAMES, packed.shape[1]),
            shards=(shard, packed.shape[1]), compressors=None, filters=None,
        )  # fmt: skip
        if packed.size:
            array[:] = packed
        for name, column in columns.items():
            is_text = isinstance(column, list)
            data = np.array([text.decode() for text in column], dtype=object) if is_text else np.asarray(column)
            kind: Any = "string" if is_text else data.dtype
            small = group.create_array(name, shape=(len(data),), chunks=(len(data),), dtype=kind, compressors=None)
            small[:] = data


def read(path: Path, columns: Sequence[str], attributes: Mapping[str, type], with_values: bool) -> Content:
    """Read columns and attributes, and locate the values.

    Raises ValueError if the shard is not one whole array.
    """
    stored = json.loads((path / METADATA).read_text("utf-8"))["attributes"]
    values = {name: stored[name] for name in attributes if name in stored}
    found = {name: _read_column(path / name) for name in columns}
    return Content(values, found, _find_values(path / "values") if with_values else None)


def _read_column(path: Path) -> Column:
    """Read a column of strings or numbers, which is one uncompressed chunk."""
    metadata = json.loads((path / METADATA).read_text("utf-8"))
    codecs, (length,) = metadata["codecs"], metadata["shape"]
    data = (path / "c" / "0").read_bytes()
    if metadata["data_type"] == "string":
        if [codec["name"] for codec in codecs] != ["vlen-utf8"]:
            raise ValueError(f"{path.name} must be stored as vlen-utf8, found {codecs}")
        return _read_strings(data, length)
    if codecs != BYTES:
        raise ValueError(f"{path.name} must be stored as little-endian bytes, found {codecs}")
    return np.frombuffer(data, np.dtype(metadata["data_type"]).newbyteorder("<"), length)


def _read_strings(data: bytes, length: int) -> list[bytes]:
    """Divide vlen-utf8: the number of strings, then the length in bytes and the bytes of each.

    All numbers are uint32, little-endian. Raises ValueError or struct.error for other data.
    """
    (count,) = struct.unpack_from("<I", data)
    if count != length:
        raise ValueError(f"a column must hold {length} strings, found {count}")
    strings, at = [], 4
    for _ in range(length):
        (size,) = struct.unpack_from("<I", data, at)
        strings.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data):
        raise ValueError(f"a column of strings must be {at} bytes long, found {len(data)}")
    return strings


def _find_values(path: Path) -> MappedArray:
    """Locate the values.

    Raises ValueError unless they are one shard whose inner chunks form one contiguous array.
    """
    metadata = json.loads((path / METADATA).read_text("utf-8"))
    num_frames, width = metadata["shape"]
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    if not num_frames:  # there is no shard
        return MappedArray(path / METADATA, dtype, 0, (0, width))
    (codec,) = metadata["codecs"]
    inner = codec["configuration"]
    chunk = inner["chunk_shape"]
    if codec["name"] != "sharding_indexed" or inner["codecs"] != BYTES or inner["index_location"] != "end":
        raise ValueError(f"values must be one uncompressed shard with its index at the end, found {codec}")
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    if chunk[1] != width or shard[1] != width or shard[0] < num_frames or shard[0] % chunk[0]:
        raise ValueError(f"values must be one shard, found {num_frames} x {width} values in shards of {shard}")
    count, size = shard[0] // chunk[0], chunk[0] * width * dtype.itemsize
    file = path / "c" / "0" / "0"
    needed, length = count * (size + INDEX_ENTRY) + INDEX_CRC, file.stat().st_size
    if length != needed:
        raise ValueError(f"its shard must be {needed} bytes long, found {length}")
    with file.open("rb") as opened:
        opened.seek(count * size)
        index = np.frombuffer(opened.read(count * INDEX_ENTRY), "<u8").reshape(count, 2)
    if (index[:, 0] != np.arange(count, dtype=np.uint64) * size).any() or (index[:, 1] != size).any():
        raise ValueError("the inner chunks of its shard must be in order and without gaps")
    return MappedArray(file, dtype, 0, (num_frames, width))
