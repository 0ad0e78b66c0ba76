"""Any table as CSV or TSV, one utterance per line, with columns that flags or their names tell."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from features.corpora.columns import as_text, choose_columns, make_item
from features.corpora.items import Corpus, Item, Work
from features.corpora.options import ImportOptions
from features.errors import InputError, UsageError, name_some
from features.regular_files import read_regular

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
Table = list[tuple[int, list[str]]]
"""Line number and values of each record, with the header first."""


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read a table whose audio paths are relative to --audio-root, else to the folder of the table.

    Raises UsageError if columns or delimiter must be given. Raises InputError for a table that is
    not UTF-8, records with another number of values than the header, or a column twice.
    """
    header, *records = read_table(source, options.delimiter)
    names = header[1]
    columns = choose_columns(names, options)
    root = options.audio_root or source.parent
    items: list[Item] = []
    for line, values in records:
        record = dict(zip(names, values, strict=True))
        place = f"{source.name}:{line}"
        path = as_text(record[columns["audio"]])
        if path is None:
            raise InputError(f"{place}: {columns['audio']} must be the path of an audio file, found none")
        items.append(make_item(record, columns, root / path, options, place))
    corpus = Corpus(items, unit=columns.get("group", "speaker"))
    used = ", ".join(f"{field} = {name}" for field, name in columns.items())
    corpus.note("columns", f"columns: {used}; the others are kept as keys of the manifests")
    if "split" in columns:
        corpus.official = f"the splits of the column {columns['split']}"
    return corpus


def read_table(path: Path, delimiter: str | None = None) -> Table:
    """Return the records of a table; without delimiter, the only one that fits every line.

    Raises UsageError if none or several fit, InputError if the table is damaged.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be a table in UTF-8, but cannot be read: {error}") from error
    delimiter = delimiter or _find_delimiter(text, path)
    if len(delimiter) != 1:
        raise UsageError(f"--delimiter must be one character, found {delimiter!r}")
    table = _parse(text, delimiter, path)
    if len(table) < 2:
        raise InputError(f"{path} must have a header and at least one utterance, found {len(table)} lines")
    names = table[0][1]
    for number, name in enumerate(names, 1):  # the index that pandas writes has no name
        names[number - 1] = name.strip() or f"column_{number}"
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: each column must have its own name, found twice: {', '.join(twice)}")
    short = [str(line) for line, values in table[1:] if len(values) != len(names)]
    if short:
        raise InputError(f"{path} must have {len(names)} values per line, as its header, not so in {name_some(short)}")
    return table


def _find_delimiter(text: str, path: Path) -> str:
    """Return the delimiter that gives more than one column, and as many in each line as in the header."""
    fitting, errors = [], []
    for delimiter in DELIMITERS:
        try:
            table = _parse(text, delimiter, path)
        except InputError as error:
            errors.append(error)
            continue
        widths = {len(values) for _, values in table}
        if len(widths) == 1 and widths.pop() > 1:
            fitting.append(delimiter)
    if errors and not fitting:
        raise errors[0]
    if len(fitting) != 1:
        found = " and ".join(DELIMITERS[each] for each in fitting) or "none of " + ", ".join(DELIMITERS.values())
        raise UsageError(
            f"{path} must have one delimiter that fits every line, found {found}; give it with --delimiter"
        )
    return fitting[0]


def _parse(text: str, delimiter: str, path: Path) -> Table:
    """Return the records that are not empty; InputError for an open quote, which would hide all lines after it."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    table: Table = []
    try:
        for values in reader:
            if values:
                table.append((reader.line_num, values))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: must be a table; is a quote not closed? {error}") from error
    return table
