"""Faults of manifests, each with file and line; a message groups those of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_GROUPS = 50
"""Maximum number of groups (file and rule) in a message."""
MAX_PLACES = 3
"""Maximum number of faults shown per group; the others are counted."""


@dataclass(frozen=True)
class Fault:
    """A fault of one line, or of a whole file (line 0)."""

    file: str
    line: int
    rule: str
    """What must hold; faults of the same rule are shown together."""
    found: str = ""
    """End of the message, such as `, found 3`; it can differ between faults of one rule."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.rule}{self.found}"


def describe_faults(faults: Sequence[Fault], data: Path) -> str:
    """Return a message with the first few faults of each group (file and rule)."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.file, fault.rule), []).append(fault)
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = [f"{count} in the manifests of {data}:"]
    ordered = list(groups.values())
    for group in ordered[:MAX_GROUPS]:
        lines += map(str, group[:MAX_PLACES])
        more = group[MAX_PLACES:]
        if more:
            lines.append(f"  and {len(more)} more of this kind, up to {more[-1].file}:{more[-1].line}")
    hidden = sum(map(len, ordered[MAX_GROUPS:]))
    if hidden:
        lines.append(f"and {hidden} more")
    return "\n".join(lines)
