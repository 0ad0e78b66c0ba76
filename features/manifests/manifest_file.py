"""Reads one manifest into columns and collects its faults."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from features.manifests.faults import Fault
from features.manifests.field_names import find_synonym
from features.manifests.fields import short_repr
from features.manifests.json_lines import line_blocks, other_format
from features.manifests.line_processes import parse_blocks
from features.manifests.manifest_columns import ManifestColumns
from features.manifests.parsed_lines import ParsedLines
from features.manifests.utterances import Utterances
from features.progress import SILENT, Reporter
from features.regular_files import read_blocks

MB = 1e6
SHOWN_BYTES = 16 << 20
"""Size of a file from which a progress bar shows how much was read."""
OFTEN_RENAMED = ("speaker_id", "transcript")
"""Optional fields for which a warning suggests a synonym that all lines have instead."""


class ManifestFile:
    """Reads one manifest and collects its faults."""

    def __init__(self, path: Path, split: str, audio_root: Path, require_emotion: bool, faults: list[Fault]) -> None:
        self.path, self.faults = path, faults
        self._parsed = ParsedLines(ManifestColumns(split, path.name, audio_root), require_emotion)
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes of the file."""
        return self._digest.hexdigest()

    def read(self, reporter: Reporter = SILENT) -> Utterances:
        """Return the valid utterances, warn of suspicious keys and record the faults."""
        try:
            size = self.path.stat().st_size
            shown = reporter if size >= SHOWN_BYTES else SILENT
            with closing(shown.progress(round(size / MB), 0, f"reading {self.path.name}", " MB")) as bar:
                self._read_lines(size, bar)
        except FileNotFoundError:
            self._fault(0, f"{self.path} does not exist")
        except OSError as error:
            self._fault(0, f"{self.path} cannot be read: {error}")
        self.faults += self._parsed.faults
        columns = self._parsed.columns
        columns.complete()
        utterances = Utterances([columns])
        self._warn_of_synonyms(utterances)
        self._warn_of_similar_keys()
        return utterances

    def _read_lines(self, size: int, bar: Any) -> None:
        """Add the utterances of all lines; OSError if the file cannot be read. `size` is in bytes."""
        blocks = line_blocks(self._blocks(bar))
        for block in blocks:
            content = block.lstrip()
            blank = block[: len(block) - len(content)]  # blank lines, and spaces at the start of the first other line
            if not content:
                self._parsed.num_lines += len(blank.splitlines())
                continue
            form = other_format(re.split(rb"[\r\n]", content, maxsplit=1)[0].strip())
            if form is not None:
                rule = f"must be JSON Lines, one JSON object per line; this looks like {form}"
                self._fault(self._parsed.num_lines + len((blank + b"{").splitlines()), rule)
                return
            self._parsed.parse(block)
            break
        else:
            self._fault(0, "must hold at least one utterance, found none")
            return
        parse_blocks(blocks, self._parsed, size)

    def _blocks(self, bar: Any) -> Iterator[bytes]:
        """Read the file in blocks and hash them: the whole of a large file would take most of the memory."""
        done = 0
        for block in read_blocks(self.path):
            self._digest.update(block)
            yield block
            before, done = done, done + len(block)
            bar.update(round(done / MB) - round(before / MB))

    def _warn_of_synonyms(self, utterances: Utterances) -> None:
        """Warn if no line has an optional field, but all lines have the same synonym of it."""
        for field in OFTEN_RENAMED:
            synonym = find_synonym(field, utterances[0].extra) if utterances else None
            if synonym is not None and all(getattr(u, field) is None and synonym in u.extra for u in utterances):
                message = f"no line has {field}, but all have {synonym!r}; did you mean {field}?"
                warnings.warn(f"{self.path.name}: {message}", stacklevel=3)

    def _warn_of_similar_keys(self) -> None:
        for (field, key), lines in self._parsed.similar.items():
            count = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
            message = f"{self.path.name}:{lines[0]}: {short_repr(key)} is not a field of a manifest"
            warnings.warn(f"{message}; did you mean {field}? ({count})", stacklevel=3)

    def _fault(self, line: int, rule: str) -> None:
        self._parsed.faults.append(Fault(self.path.name, line, rule))
