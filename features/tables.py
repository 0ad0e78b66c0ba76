"""Tables of text with aligned columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

LONGEST_VALUE = 40
"""Number of characters of a JSON value that a table shows."""


def short_json(value: Any) -> str:
    """Return a JSON value as short text; a dash for None."""
    if value is None:
        return "-"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def aligned(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a table; columns of numbers are aligned to the right."""
    cells = [list(header)]
    for row in rows:
        cells.append([str(cell) for cell in row])
    columns = []
    for column in zip(*cells, strict=True):
        width = max(map(len, column))
        right = bool(rows) and all(map(_is_number, column[1:]))
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in column])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _is_number(text: str) -> bool:
    """Tell whether a cell is a number, or stands for a missing one."""
    return text.replace(".", "", 1).replace("-", "", 1).isdigit() or text in ("-", "")
