"""`mervn store list | info | verify | compact | convert | rm`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.config import (
    StoreCompactOptions,
    StoreConvertOptions,
    StoreInfoOptions,
    StoreListOptions,
    StoreRemoveOptions,
    StoreVerifyOptions,
)
from features.errors import InputError, UsageError


@command("store list")
def list_(options: StoreListOptions, output: Output) -> None:
    """List the stores of a features folder."""
    from features.store.index import features_folder, list_stores
    from features.store.reader import FeatureStore

    folder = options.features_dir or features_folder(None, resolve_data(options.data))
    rows: list[Sequence[object]] = []
    documents: list[dict[str, object]] = []
    for info in list_stores(folder, means=True):
        document: dict[str, object] = {"path": str(info.path), "identity": info.hash, "encoder": info.encoder}
        weights, dtype = str(info.provenance["weights"]), info.identity["store_dtype"]
        try:
            store = FeatureStore(info.path)
        except InputError:
            rows.append((info.path, "damaged", "-", dtype, "mervn store verify says which part"))
            documents.append({**document, "damaged": True})
            continue
        rows.append((info.path, len(store), f"{store.num_bytes / 1e6:.1f}", dtype, weights))
        documents.append({**document, "utterances": len(store), "bytes": store.num_bytes, "weights": weights})
    if rows:
        output.table(("store", "utterances", "MB", "dtype", "weights"), rows)
    else:
        output.result(f"no stores in {folder}")
    output.document({"features_dir": str(folder), "stores": documents})


@command("store info", argument="store")
def info(store: Path, options: StoreInfoOptions, output: Output) -> None:
    """Show what one store holds and what it was made from."""
    from features.store.reader import FeatureStore
    from features.store.rejected import read_rejected

    opened = FeatureStore(store)
    document = {
        "path": str(store),
        "hash": opened.info.hash,
        "identity": dict(opened.info.identity),
        "provenance": dict(opened.info.provenance),
        "content": {**opened.describe(), "rejected": len(read_rejected(store))},
    }
    output.result(json.dumps(document, indent=2, ensure_ascii=False))
    output.document(document)


@command("store verify", argument="store")
def verify(store: Path, options: StoreVerifyOptions, output: Output) -> int:
    """Read every byte of a store and compare it with its checksums.

    Exit 1 and the damaged parts by name, if there are any. With --set-aside they are renamed, and the next
    `mervn extract` encodes their utterances again.
    """
    from features.store.maintenance import verify as verify_store
    from features.store.part import part_paths

    bar = output.progress(len(part_paths(store)), 0, unit=" parts")
    whole, faults = verify_store(store, options.set_aside, bar.update)
    bar.close()
    for fault in faults:
        kept = f"; set aside as {fault.set_aside.name}" if fault.set_aside else ""
        output.result(f"{fault.path}: {fault.why}{kept}")
    output.result(f"{store}: {whole} utterances are whole, {len(faults)} parts damaged")
    damaged = [
        {"path": str(f.path), "why": f.why, "set_aside": str(f.set_aside) if f.set_aside else None} for f in faults
    ]
    output.document({"path": str(store), "whole": whole, "damaged": damaged})
    return 1 if faults and not options.set_aside else 0


@command("store compact", argument="store")
def compact(store: Path, options: StoreCompactOptions, output: Output) -> None:
    """Gather small parts into full ones and drop rows that newer ones replaced; other processes may go on reading."""
    from features.store.maintenance import compact as compact_store

    done = compact_store(store)
    output.result(f"{store}: {done.parts_before} parts before, {done.parts_after} now, {done.superseded} rows dropped")
    output.document({"path": str(store), **asdict(done)})


@command("store convert", argument="store")
def convert(store: Path, options: StoreConvertOptions, output: Output) -> None:
    """Rewrite a store's parts as HDF5 or as Zarr, in place, one after another; interrupted, it can be run again."""
    from features.store.maintenance import convert as convert_store
    from features.store.part import format_of, part_paths

    parts = part_paths(store)
    if not parts:
        raise InputError(f"{store} must be a feature store with parts in it, found none")
    wanted = options.format or {"hdf5": "zarr", "zarr": "hdf5"}[format_of(parts[0])]
    bar = output.progress(sum(format_of(path) != wanted for path in parts), 0, unit=" parts")
    count = convert_store(store, wanted, bar.update)
    bar.close()
    output.result(f"{store}: {count} parts converted to {wanted}")
    output.document({"path": str(store), "format": wanted, "converted": count})


@command("store rm", argument="store")
def remove(store: Path, options: StoreRemoveOptions, output: Output) -> None:
    """Remove a store, after asking; refused while a process writes to it."""
    from features.store.identity import read_store_info
    from features.store.maintenance import remove_store

    read_store_info(store)
    if not options.yes:
        if not sys.stdin.isatty():
            raise UsageError(f"removing {store} cannot be undone: give --yes")
        click.confirm(f"remove {store}?", abort=True, err=True)
    count = remove_store(store)
    output.result(f"{store}: removed, {count} utterances")
    output.document({"path": str(store), "utterances": count})
