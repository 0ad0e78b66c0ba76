"""Ledger of looks at the test split: test_access.jsonl, in the run and beside the data.

`evaluate` records each look. All runs of a series are one look, whose entry lists them as members.
An ensemble is a look too; the hash of its members' predictions stands for the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import append_lines, json_line
from features.environment import now
from features.progress import Reporter
from features.store.locks import store_lock
from mervn.run_folder import LEDGER_FILE


@dataclass(frozen=True)
class Look:
    """One look at the test split. Looks with the same run, weights and inputs are the same look."""

    run_hash: str
    weights_sha256: str
    inputs_sha256: str
    """Hash of the manifest, of the features, or audio and transcripts, and of what is withheld.

    A score without a modality tells something else about the split, so it is another look.
    """

    def is_in(self, ledger: Path) -> bool:
        """Tell whether a ledger already has this look, alone or as a member of a series."""
        return any(self._equals(entry) for entry in map(_entry, _lines(ledger)))

    def _equals(self, entry: Mapping[str, object]) -> bool:
        """Tell whether an entry, or one of its members, is this look."""
        members = entry.get("members")
        fields = asdict(self).items()
        for each in [entry, *(members if isinstance(members, list) else [])]:
            if isinstance(each, Mapping) and fields <= each.items():
                return True
        return False


def record_look(run: Path, data: Path, look: Look, reporter: Reporter, members: Sequence[Look] = ()) -> int:
    """Add a look to both ledgers, unless they have it; return the number of looks at this data.

    `members` are the looks of the runs of a series. Looking at one of them again is no new look.
    """
    entry: dict[str, Any] = {"time": now(), "run": str(run.resolve()), "split": "test", **asdict(look)}
    if members:
        entry["members"] = list(map(asdict, members))
    own = {**entry, "data": str(data.resolve())}
    ledger = data / LEDGER_FILE
    try:
        with store_lock(data):  # so that two evaluations at once do not record the same look twice
            _add(run / LEDGER_FILE, look, own)
            _add(ledger, look, entry)
            return len(_lines(ledger))
    except OSError as error:
        _add(run / LEDGER_FILE, look, own)  # raises if it was the run's own ledger that failed
        reporter.say(f"warning: the look at the test split could not be recorded in {ledger}: {error}")
    return len(_lines(run / LEDGER_FILE))


def _add(ledger: Path, look: Look, entry: Mapping[str, Any]) -> None:
    """Append an entry unless the ledger already has this look."""
    if not look.is_in(ledger):
        append_lines(ledger, json_line(entry))


def _lines(ledger: Path) -> list[bytes]:
    """Return the lines of a ledger that are not blank; none if it does not exist."""
    if not ledger.exists():
        return []
    return [line for line in ledger.read_bytes().splitlines() if line.strip()]


def _entry(line: bytes) -> dict[str, object]:
    """Parse one line. A damaged line gives an empty entry.

    Such an entry counts as a look, but it never equals one.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
