"""`mervn store import`."""

from __future__ import annotations

from pathlib import Path

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.errors import name_some
from features.extraction.import_options import StoreImportOptions


@command("store import", argument="source")
def store_import(source: Path, options: StoreImportOptions, output: Output) -> None:
    """Import features of another program as a store, to train heads on them.

    SOURCE is a folder with UTTERANCE_ID.npy for each utterance, frames (T, D) or one vector (D,),
    or an HDF5 file or Zarr group with the arrays values (sum T, D), offsets and utterance_id, or
    values (N, D) without offsets. The features are checked against the manifests and the audio, and
    are copied.
    """
    data = resolve_data(options.data)

    from features.extraction.import_features import import_features

    found = import_features(source, options, data, output)
    info, checked = found.info, found.checked
    kept = len(checked.inputs) - found.written
    more = f", {checked.empty} without transcript" if checked.empty else ""
    output.result(
        f"{info.path}: {found.written} imported, {kept} kept{more}; width {checked.dim}, {checked.store_dtype}"
    )
    if checked.missing:
        output.say(f"{len(checked.missing)} utterances have no features: {name_some(checked.missing)}")
    if found.unused:
        output.say(f"warning: the features of {len(found.unused)} names have no utterance: {name_some(found.unused)}")
    for path in found.others:
        output.say(
            f"warning: {path} has the same name: choose with --{info.modality}-store, or remove one with "
            "`mervn store rm`"
        )
    output.document(
        {
            "path": str(info.path),
            "identity": info.hash,
            "imported": found.written,
            "kept": kept,
            "dim": checked.dim,
            "missing": checked.missing,
            "unused": found.unused,
            "same_name": list(map(str, found.others)),
        }
    )
