"""Reads one manifest into columns and collects its faults."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from features.manifests.faults import Fault
from features.manifests.field_names import find_synonym
from features.manifests.fields import FieldError, parse_fields, short_repr
from features.manifests.json_lines import numbered_lines, other_format, parse_json
from features.manifests.utterances import ManifestColumns, Utterances
from features.regular_files import read_blocks

OFTEN_RENAMED = ("speaker_id", "transcript")
"""Optional fields for which a warning suggests a synonym that all lines have instead."""


class ManifestFile:
    """Reads one manifest and collects its faults."""

    def __init__(self, path: Path, split: str, audio_root: Path, require_emotion: bool, faults: list[Fault]) -> None:
        self.path, self.require_emotion, self.faults = path, require_emotion, faults
        self.columns = ManifestColumns(split, path.name, audio_root)
        """The valid utterances."""
        self._digest = hashlib.sha256()
        self._similar: dict[tuple[str, str], list[int]] = {}
        """(optional field, key that may be a misspelling of it) -> lines with that key."""

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes of the file."""
        return self._digest.hexdigest()

    def read(self) -> Utterances:
        """Return the valid utterances, warn of suspicious keys and record the faults."""
        try:
            self._read_lines()
        except FileNotFoundError:
            self._fault(0, f"{self.path} does not exist")
        except OSError as error:
            self._fault(0, f"{self.path} cannot be read: {error}")
        self.columns.complete()
        utterances = Utterances([self.columns])
        self._warn_of_synonyms(utterances)
        self._warn_of_similar_keys()
        return utterances

    def _read_lines(self) -> None:
        """Add the utterances of all lines; OSError if the file cannot be read."""
        lines = numbered_lines(self._blocks())
        first = next(lines, None)
        if first is None:
            self._fault(0, "must hold at least one utterance, found none")
            return
        form = other_format(first[1].strip())
        if form is not None:
            self._fault(first[0], f"must be JSON Lines, one JSON object per line; this looks like {form}")
            return
        self._add_line(*first)
        for number, line in lines:
            self._add_line(number, line)

    def _blocks(self) -> Iterator[bytes]:
        """Read the file in blocks and hash them: the whole of a large file would take most of the memory."""
        for block in read_blocks(self.path):
            self._digest.update(block)
            yield block

    def _warn_of_synonyms(self, utterances: Utterances) -> None:
        """Warn if no line has an optional field, but all lines have the same synonym of it."""
        for field in OFTEN_RENAMED:
            synonym = find_synonym(field, utterances[0].extra) if utterances else None
            if synonym is not None and all(getattr(u, field) is None and synonym in u.extra for u in utterances):
                message = f"no line has {field}, but all have {synonym!r}; did you mean {field}?"
                warnings.warn(f"{self.path.name}: {message}", stacklevel=3)

    def _warn_of_similar_keys(self) -> None:
        for (field, key), lines in self._similar.items():
            count = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
            message = f"{self.path.name}:{lines[0]}: {short_repr(key)} is not a field of a manifest"
            warnings.warn(f"{message}; did you mean {field}? ({count})", stacklevel=3)

    def _fault(self, line: int, rule: str, found: str = "") -> None:
        self.faults.append(Fault(self.path.name, line, rule, found))

    def _add_line(self, number: int, line: bytes) -> None:
        """Parse one line and add its utterance, or record its faults."""
        try:
            document = parse_json(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            self._fault(number, "must be UTF-8", f", found {error.reason} at byte {error.start}")
        except RecursionError:
            self._fault(number, "must be one JSON object", ", found lists or objects that are nested too deeply")
        except ValueError as error:
            self._fault(number, "must be one JSON object", f", found: {error}")
        else:
            self._add(document, number)

    def _add(self, document: object, line: int) -> None:
        """Check the JSON value of one line and add its utterance, or record its faults."""
        if not isinstance(document, dict):
            self._fault(line, "must be a JSON object", f", found {type(document).__name__}")
            return
        values, extra, faults, similar = parse_fields(document)
        if self.require_emotion and "emotion" in values and values["emotion"] is None:
            synonym = find_synonym("emotion", document) or similar.pop("emotion", None)
            hint = f"; is it the key {synonym!r}? Rename it to emotion" if synonym else ""
            faults.append(FieldError(f"emotion is missing: it must be a label{hint}"))
        for field, key in similar.items():
            self._similar.setdefault((field, key), []).append(line)
        start, end = values.get("start", 0.0), values.get("end")
        if end is not None and end <= start:
            faults.append(FieldError("end must be greater than start", f", found start={start} end={end}"))
        for fault in faults:
            self._fault(line, fault.rule, fault.found)
        if not faults:
            self.columns.append(values, line, extra)
