"""ParsedLines: the utterances and the faults of consecutive lines of a manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from features.manifests.faults import Fault
from features.manifests.field_names import find_synonym
from features.manifests.fields import FieldError, parse_fields
from features.manifests.json_lines import parse_json
from features.manifests.manifest_columns import ManifestColumns


class ParsedLines:
    """Parses lines and collects their utterances and faults.

    It can be pickled, and then added to those of the lines before.
    """

    def __init__(self, columns: ManifestColumns, require_emotion: bool) -> None:
        self.require_emotion = require_emotion
        self.columns = columns
        """The valid utterances."""
        self.faults: list[Fault] = []
        self.similar: dict[tuple[str, str], list[int]] = {}
        """(optional field, key that may be a misspelling of it) -> lines with that key."""
        self.num_lines = 0
        """Lines that were parsed, blank ones included."""

    def like(self) -> ParsedLines:
        """Return an empty object for the lines of another block of this manifest."""
        return ParsedLines(ManifestColumns("", self.columns.file, Path()), self.require_emotion)

    def parse(self, block: bytes) -> None:
        """Add the utterances of a block of whole lines, except blank ones, and record their faults."""
        for line in block.splitlines():
            self.num_lines += 1
            if line.strip():
                self._add_line(self.num_lines, line)

    def extend(self, following: ParsedLines) -> None:
        """Add what the lines after these gave."""
        before = self.num_lines
        self.columns.extend(following.columns, before)
        self.faults += [replace(fault, line=fault.line + before) for fault in following.faults]
        for key, lines in following.similar.items():
            self.similar.setdefault(key, []).extend(line + before for line in lines)
        self.num_lines += following.num_lines

    def _fault(self, line: int, rule: str, found: str = "") -> None:
        self.faults.append(Fault(self.columns.file, line, rule, found))

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
            self.similar.setdefault((field, key), []).append(line)
        start, end = values.get("start", 0.0), values.get("end")
        if end is not None and end <= start:
            faults.append(FieldError("end must be greater than start", f", found start={start} end={end}"))
        for fault in faults:
            self._fault(line, fault.rule, fault.found)
        if not faults:
            self.columns.append(values, line, extra)
