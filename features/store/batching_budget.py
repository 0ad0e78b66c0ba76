"""batching.json: a store's batch size in padded seconds or tokens, set by its first extraction.

The budget decides the units of work. Without a recorded one, processes with different defaults,
such as one on a CPU and one on a GPU, would claim different units and encode the same utterances.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from features.atomic_files import write_atomically
from features.errors import InputError, UsageError
from features.store.claims import Claims
from features.store.identity import StoreIdentity, StoreInfo, find_identity
from features.store.locks import store_lock
from features.store.writer import disk_error

BUDGET_FILE = "batching.json"


def read_budget(store: Path) -> float | None:
    """Return the recorded budget per batch, in seconds of audio or tokens, with padding.

    Returns None if none is recorded. Raises InputError if the file is damaged.
    """
    path = store / BUDGET_FILE
    try:
        budget = json.loads(path.read_text("utf-8"))["budget"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f'{path} must be {{"budget": NUMBER}}, but cannot be read: {error!r}; remove it') from error
    # JSON has true and NaN, which Python would accept as numbers
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < float("inf"):
        raise InputError(f"{path}: the budget must be a positive number, found {budget!r}; remove the file")
    return float(budget)


def recorded_budget(features_dir: Path, identities: Sequence[StoreIdentity]) -> float | None:
    """Return the budget of the first of these stores that has a recorded one, else None."""
    for identity in identities:
        info = find_identity(features_dir, identity)
        budget = read_budget(info.path) if info is not None else None
        if budget is not None:
            return budget
    return None


def refuse_other_budget(info: StoreInfo, wanted: float, claims: Claims) -> None:
    """Raise UsageError if another process is extracting into the store with a different budget."""
    recorded, holders = read_budget(info.path), claims.holders(claims.held())
    if recorded not in (None, wanted) and holders:
        raise UsageError(
            f"--batch-seconds must be {recorded:g}, as in the extraction of {', '.join(holders)} "
            f"into {info.path}, found {wanted:g}: leave the option out to share the work, or wait"
        )


def agree_on_budget(infos: Sequence[StoreInfo], planned: float, replace: bool) -> float:
    """Record the budget in stores without one, or in all of them if `replace`.

    Returns the budget to use for all stores: that of the first store, or `planned` if it has none or
    if `replace`. Raises InputError if a budget cannot be read or written.
    """
    agreed = planned
    for number, info in enumerate(infos):
        with store_lock(info.path):
            recorded = read_budget(info.path)
            # the first store decides: all layers of one extraction need the same units
            if recorded is not None and not replace and number == 0:
                agreed = recorded
            if recorded is None or (replace and recorded != agreed):
                try:
                    write_atomically(info.path / BUDGET_FILE, json.dumps({"budget": agreed}) + "\n")
                except OSError as error:
                    raise disk_error(info, error) from error
    return agreed
