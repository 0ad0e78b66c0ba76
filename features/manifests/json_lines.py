"""JSON Lines: reads lines, detects files in another format and duplicate keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from features.manifests.fields import short_repr

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} twice")
            seen.add(key)
    return document


_SCAN: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder(object_pairs_hook=object_without_duplicates))[
    "scan_once"
]


def parse_json(text: str) -> Any:
    """Parse the JSON of one line; ValueError or RecursionError, with the message of `json.loads`."""
    try:
        value, end = _SCAN(text, 0)  # json.loads would make a decoder for each line
        if end == len(text):
            return value
    except (ValueError, StopIteration):
        pass
    return json.loads(text, object_pairs_hook=object_without_duplicates)


def line_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of whole lines, without a byte order mark.

    The blocks are those of the file, one after the other. A line ends with a line feed here, so that
    what `bytes.splitlines` takes for the end of a line lies within a block.
    """
    mark = BYTE_ORDER_MARK
    for pieces in _whole_lines(blocks):
        yield b"".join(pieces).removeprefix(mark)
        mark = b""


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the pieces of blocks that end with a line, and last what follows the last line."""
    begun: list[bytes] = []  # the pieces of a line that the next block continues
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            yield [*begun, block[:end]]
            begun = [block[end:]]
        else:
            begun.append(block)
    yield begun
