"""Faults of manifests: each with its place, those of one kind shown together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GROUPS_SHOWN = 50
PLACES_SHOWN = 3
"""Of faults of one kind in one file; the others are counted."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one line, or with a file (line 0)."""

    file: str
    line: int
    rule: str
    """What must hold; faults of one rule are shown together."""
    found: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.rule}{self.found}"


def describe_faults(faults: Sequence[Fault], data: Path) -> str:
    """Return a message in which faults of one kind in one file stand together, the first few with their places."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.file, fault.rule), []).append(fault)
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = [f"{count} in the manifests of {data}:"]
    for some in list(groups.values())[:GROUPS_SHOWN]:
        lines += [str(fault) for fault in some[:PLACES_SHOWN]]
        more = some[PLACES_SHOWN:]
        if more:
            lines.append(f"  and {len(more)} more of this kind, up to {more[-1].file}:{more[-1].line}")
    hidden = sum(len(some) for some in list(groups.values())[GROUPS_SHOWN:])
    return "\n".join([*lines, f"and {hidden} more"] if hidden else lines)
