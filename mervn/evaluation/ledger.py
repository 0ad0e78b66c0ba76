"""Ledger of looks at the test split: test_access.jsonl in the run and beside the data; `evaluate` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.environment import now
from features.progress import Reporter
from features.store.locks import store_lock
from mervn.run_folder import LEDGER_FILE


@dataclass(frozen=True)
class Look:
    """One look at the test split; the same run, weights and inputs again are the same look."""

    run_hash: str
    weights_sha256: str
    inputs_sha256: str
    """Of the manifest and of the features, or the audio and transcripts, that were read."""

    def is_in(self, ledger: Path) -> bool:
        """Tell whether a ledger has this look already."""
        mine = asdict(self)
        return any(mine.items() <= entry.items() for entry in map(_entry, _lines(ledger)))


def record_look(run: Path, data: Path, look: Look, reporter: Reporter) -> int:
    """Add a line to both ledgers unless they have this look; return how many looks this data has had."""
    entry = {"time": now(), "run": str(run.resolve()), "split": "test", **asdict(look)}
    own = {**entry, "data": str(data.resolve())}
    ledger = data / LEDGER_FILE
    try:
        with store_lock(data):  # two evaluations at once are one look, too
            _add(run / LEDGER_FILE, look, own)
            _add(ledger, look, entry)
            return len(_lines(ledger))
    except OSError as error:
        _add(run / LEDGER_FILE, look, own)  # raises where this one failed
        reporter.say(f"warning: the look at the test split could not be recorded in {ledger}: {error}")
    return len(_lines(run / LEDGER_FILE))


def _add(ledger: Path, look: Look, entry: Mapping[str, Any]) -> None:
    if not look.is_in(ledger):
        _append(ledger, entry)


def _append(ledger: Path, entry: Mapping[str, Any]) -> None:
    """Add a line, on a line of its own also where the last one was cut."""
    cut = ledger.exists() and not ledger.read_bytes().endswith(b"\n")
    with ledger.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + json.dumps(entry, ensure_ascii=False) + "\n")


def _lines(ledger: Path) -> list[bytes]:
    return [line for line in ledger.read_bytes().splitlines() if line.strip()] if ledger.exists() else []


def _entry(line: bytes) -> dict[str, object]:
    """Return what a line says; a damaged one counts as a look, and as no other's repeat."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
