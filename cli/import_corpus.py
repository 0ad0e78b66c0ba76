"""`mervn import`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import command
from cli.output import Output
from features.corpora.options import ImportOptions

if TYPE_CHECKING:
    from features.corpora.importer import ImportResult

MAX_EXAMPLES = 3
"""Number of utterances that a printed finding names; import.json has all."""


@command("import", argument=("format", "source"))
def import_command(format: Path, source: Path, options: ImportOptions, output: Output) -> None:  # noqa: A002
    """Write the manifests of a published corpus, or of a table, and report its known faults.

    FORMAT is csv, hf, vnemos, iemocap, meld, crema-d, ravdess, esd, msp-podcast or emobox. SOURCE is
    the file or folder of the corpus. Audio stays in place, except of Parquet files (hf). Nothing is
    dropped silently: import.json in the new folder lists every utterance that is left out.
    """
    from features.corpora.importer import import_corpus

    result = import_corpus(str(format), source, options, output)
    _print(result, output)
    output.say(f"next: mervn extract --data {shlex.quote(str(result.path))}")
    output.document(asdict(result))


def _print(result: ImportResult, output: Output) -> None:
    lines = []
    for split, count in result.utterances.items():
        lines.append((split, count, result.speakers[split]))
    output.table(("split", "utterances", "speakers"), lines)
    labels = []
    for label, spelled in result.labels.items():
        labels.append((label, sum(spelled.values()), ", ".join(f"{each} ({n})" for each, n in spelled.items())))
    output.table(("label", "utterances", "in the corpus"), labels)
    output.result(f"protocol: {result.protocol}")
    for reason, names in result.left_out.items():
        output.result(f"left out: {len(names)} {reason}{_examples(names)}")
    for finding in result.findings:
        output.result(f"{finding.severity}: {finding.id}: {finding.message}{_examples(finding.examples)}")
    folds = f", folds-{result.num_folds}.json" if result.num_folds else ""
    output.result(f"{result.path}: train.jsonl, valid.jsonl, test.jsonl{folds}; import.json lists all of the above")


def _examples(names: tuple[str, ...] | list[str]) -> str:
    """Return the first names of a list in parentheses."""
    if not names:
        return ""
    more = f" and {len(names) - MAX_EXAMPLES} more" if len(names) > MAX_EXAMPLES else ""
    return f" ({', '.join(names[:MAX_EXAMPLES])}{more})"
