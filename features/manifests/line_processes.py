"""Parses the lines of a large manifest in several processes, with the result of one.

Python parses one line at a time per process, and a million lines take it 10 to 20 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from features.cpu_threads import usable_cores
from features.manifests.parsed_lines import ParsedLines
from features.process_map import MAX_PROCESSES, map_in_processes

MIN_BYTES = 16 << 20
"""Size of a file from which processes save more time than they take to start."""


def parse_blocks(blocks: Iterator[bytes], parsed: ParsedLines, num_bytes: int) -> None:
    """Add blocks of whole lines to what the lines before gave; `num_bytes` are those of the file."""
    count = min(usable_cores(), MAX_PROCESSES)
    if num_bytes < MIN_BYTES or count == 1:
        for block in blocks:
            parsed.parse(block)
        return
    with closing(map_in_processes(BlockParser(parsed.like()), blocks, count)) as found:
        for each in found:
            parsed.extend(each)


@dataclass(frozen=True)
class BlockParser:
    """Parses blocks of a manifest, each into an object of its own."""

    empty: ParsedLines

    def __call__(self, block: bytes) -> ParsedLines:
        """Return what the lines of a block give."""
        parsed = self.empty.like()
        parsed.parse(block)
        parsed.columns.complete()
        return parsed
