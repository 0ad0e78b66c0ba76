"""rejected.jsonl: which utterances have no row in a store, and why."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from features.manifest import Utterance
from features.store.identity import StoreInfo, write_atomically
from features.store.locks import store_lock
from features.store.writer import disk_error

REJECTED_FILE = "rejected.jsonl"
Rejection = tuple[Utterance, str, str]
"""An utterance, the reason in a word, and the detail."""


def rejection_entry(rejection: Rejection) -> dict[str, object]:
    """Return what rejected.jsonl says of one rejection."""
    utterance, reason, detail = rejection
    return {
        "utterance_id": utterance.utterance_id,
        "file": utterance.file,
        "line": utterance.line,
        "reason": reason,
        "detail": detail,
    }


def read_rejected(store: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a store's rejected.jsonl by utterance id."""
    path = store / REJECTED_FILE
    if not path.exists():
        return {}
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    return {entry["utterance_id"]: entry for entry in entries}


def record_rejected(info: StoreInfo, tried: Collection[str], rejections: Sequence[Rejection]) -> None:
    """Rewrite rejected.jsonl: these rejections, and what stood there of utterances that were not tried now."""
    path = info.path / REJECTED_FILE
    with store_lock(info.path):
        before = read_rejected(info.path)
        after = {name: entry for name, entry in before.items() if name not in tried}
        after |= {rejection[0].utterance_id: rejection_entry(rejection) for rejection in rejections}
        if after == before:
            return
        try:
            write_atomically(path, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in after.values()))
        except OSError as error:
            raise disk_error(info, error) from error
