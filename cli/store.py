"""`mervn store list` and `mervn store info`."""

from __future__ import annotations

import json
from pathlib import Path

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.config import StoreInfoOptions, StoreListOptions


@command("store list")
def list_(options: StoreListOptions, output: Output) -> None:
    """List the stores of a features folder."""
    from features.store.index import features_folder, list_stores
    from features.store.reader import FeatureStore

    folder = options.features_dir or features_folder(None, resolve_data(options.data))
    rows, documents = [], []
    for info in list_stores(folder, means=True):
        store = FeatureStore(info.path)
        weights = str(info.provenance["weights"])
        rows.append((info.path, len(store), f"{store.num_bytes / 1e6:.1f}", info.identity["store_dtype"], weights))
        documents.append(
            {
                "path": str(info.path),
                "identity": info.hash,
                "encoder": info.encoder,
                "utterances": len(store),
                "bytes": store.num_bytes,
                "weights": weights,
            }
        )
    if rows:
        output.table(("store", "utterances", "MB", "dtype", "weights"), rows)
    else:
        output.result(f"no stores in {folder}")
    output.document({"features_dir": str(folder), "stores": documents})


@command("store info", argument="store")
def info(store: Path, options: StoreInfoOptions, output: Output) -> None:
    """Show what one store holds and what it was made from."""
    from features.store.reader import FeatureStore
    from features.store.writer import read_rejected

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
