"""`mervn store list | info | verify | compact | convert | rm`."""

from __future__ import annotations

import json
import shlex
import sys
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
    from features.store.index import damaged_stores, features_folder, list_stores
    from features.store.listing import COLUMNS, StoreSummary, summarize

    def document(store: StoreSummary) -> dict[str, object]:
        info = store.info
        about: dict[str, object] = {"path": str(info.path), "identity": info.hash, "encoder": info.encoder}
        about["model"] = store.model
        if store.unreadable is not None:
            return {**about, "unreadable": store.unreadable}
        if store.damaged:
            return {**about, "damaged": True}
        return {**about, "utterances": store.utterances, "bytes": store.num_bytes, "weights": store.weights}

    folder = options.features_dir or features_folder(None, resolve_data(options.data))
    stores = list(map(summarize, list_stores(folder, means=True)))
    if stores:
        output.table(("store", *COLUMNS), [(store.info.path, *store.cells) for store in stores])
    else:
        output.result(f"no stores in {folder}")
    refused = list(map(str, damaged_stores(folder)))
    for text in refused:
        output.say(f"warning: {text}")
    documents = list(map(document, stores))
    output.document({"features_dir": str(folder), "stores": documents, "refused": refused})


@command("store info", argument="store")
def info(store: Path, options: StoreInfoOptions, output: Output) -> None:
    """Show the content of a store and what it was extracted from."""
    from features.store.reader import FeatureStore
    from features.store.rejected import read_rejected
    from features.store.summary import describe

    opened = FeatureStore(store)
    document = {
        "path": str(store),
        "hash": opened.info.hash,
        "identity": opened.info.identity.as_json(),
        "provenance": dict(opened.info.provenance),
        "content": {**describe(opened), "rejected": len(read_rejected(store))},
    }
    output.result(json.dumps(document, indent=2, ensure_ascii=False))
    output.document(document)


@command("store verify", argument="store")
def verify(store: Path, options: StoreVerifyOptions, output: Output) -> int:
    """Read every byte of a store and check it against its checksums.

    Lists the damaged parts; the exit code is 1 if there are any. --set-aside renames them, and
    the next `mervn extract` encodes their utterances again. Parts that cannot be read now are
    listed too, but never renamed.
    """
    from features.store.identity import read_store_info
    from features.store.maintenance import verify as verify_store
    from features.store.part_files import part_paths

    read_store_info(store)
    bar = output.progress(len(part_paths(store)), 0, unit=" parts")
    found = verify_store(store, options.set_aside, bar.update)
    bar.close()
    damaged, unreadable = [], []
    for fault in found.faults:
        entry = {"path": str(fault.path), "why": fault.detail}
        if fault.damaged:
            kept = f"; set aside as {fault.set_aside.name}" if fault.set_aside else ""
            output.result(f"{fault.path}: {fault.detail}{kept}")
            damaged.append({**entry, "set_aside": str(fault.set_aside) if fault.set_aside else None})
        else:
            output.result(f"{fault.path}: cannot be read now: {fault.detail}")
            unreadable.append(entry)
    unknown = f", {len(unreadable)} could not be read" if unreadable else ""
    number = "1 part is" if len(damaged) == 1 else f"{len(damaged)} parts are"
    output.result(f"{store}: {found.whole} utterances are valid, {number} damaged{unknown}")
    if damaged and not options.set_aside:
        command_line = shlex.join(["mervn", "store", "verify", str(store), "--set-aside"])
        output.say(f"set damaged parts aside, then extract their utterances again:\n  {command_line}")
    if len(found.made_with) > 1:
        output.result("the parts were extracted with different versions or devices, which can change numbers:")
        for origin in found.made_with:
            output.result("  " + ", ".join(f"{key} {value}" for key, value in origin.as_json().items()))
    document = {"path": str(store), "whole": found.whole, "damaged": damaged, "unreadable": unreadable}
    output.document({**document, "made_with": [origin.as_json() for origin in found.made_with]})
    return 1 if unreadable or (damaged and not options.set_aside) else 0


@command("store compact", argument="store")
def compact(store: Path, options: StoreCompactOptions, output: Output) -> None:
    """Merge small parts and remove features that newer ones replaced.

    Other processes can keep reading the store.
    """
    from features.store.identity import read_store_info
    from features.store.maintenance import compact as compact_store

    read_store_info(store)
    done = compact_store(store)
    output.result(
        f"{store}: {done.parts_before} parts before, {done.parts_after} after; replaced features "
        f"of {done.superseded} utterances removed"
    )
    output.document({"path": str(store), **asdict(done)})


@command("store convert", argument="store")
def convert(store: Path, options: StoreConvertOptions, output: Output) -> None:
    """Convert the parts of a store to HDF5 or Zarr, in place; repeat the command to resume it."""
    from features.store.identity import read_store_info
    from features.store.maintenance import convert as convert_store
    from features.store.part_files import format_of, part_paths

    read_store_info(store)
    parts = part_paths(store)
    if not parts:
        raise InputError(f"{store} must be a feature store with parts, found none")
    wanted = options.format or {"hdf5": "zarr", "zarr": "hdf5"}[format_of(parts[0])]
    bar = output.progress(sum(format_of(path) != wanted for path in parts), 0, unit=" parts")
    count = convert_store(store, wanted, bar.update)
    bar.close()
    output.result(f"{store}: {count} parts converted to {wanted}")
    output.document({"path": str(store), "format": wanted, "converted": count})


@command("store rm", argument="store")
def remove(store: Path, options: StoreRemoveOptions, output: Output) -> None:
    """Remove a store, after asking; not possible while a process writes to it."""
    from features.store.identity import read_store_info
    from features.store.maintenance import remove_store

    read_store_info(store)
    if not options.yes:
        if not sys.stdin.isatty():
            raise UsageError(f"removing {store} cannot be undone: give --yes")
        link = f" (a link to {store.resolve()}, which is removed too)" if store.is_symlink() else ""
        click.confirm(f"remove {store}{link}?", abort=True, err=True)
    count = remove_store(store)
    output.result(f"{store}: removed, {count} utterances")
    output.document({"path": str(store), "utterances": count})
