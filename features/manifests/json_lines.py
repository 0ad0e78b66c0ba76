"""JSON Lines: detection of files in another format and of duplicate keys."""

from __future__ import annotations

import re
from typing import Any

from features.manifests.fields import short_repr


def other_format(line: bytes) -> str | None:
    """Return the format that the first line of a file suggests, for a message.

    Returns None for JSON Lines.
    """
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16; save it as UTF-8"
    if line == b"{":
        return "indented JSON"
    if line.startswith(b"["):
        return "one JSON array"
    if not line.startswith(b"{") and re.search(rb"[,;\t|]", line):
        return f"CSV, found {short_repr(line.decode('utf-8', 'replace'))}"
    return None


def object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, as the `object_pairs_hook` of json.loads.

    Raises ValueError if a key occurs twice.
    """
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key!r} twice")
        document[key] = value
    return document
