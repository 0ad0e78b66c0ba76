"""`mervn split`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.options import command
from cli.output import Output
from features.errors import UsageError
from features.splitting.options import SplitOptions

if TYPE_CHECKING:
    from features.splitting.split_manifest import SplitPlan

MIN_SPEAKERS = 6
"""Speakers below which test has no permutation test (and below 4 no interval)."""


@command("split", argument="file")
def split_command(file: Path, options: SplitOptions, output: Output) -> None:
    """Split a manifest into train, valid and test that share no speaker, recording or audio.

    Every split has every class, in about equal proportion. With --folds, folds-K.json is written
    too, for `mervn train-head --fold`, and train.jsonl, valid.jsonl and test.jsonl are fold 1.
    The result depends on the utterances only, not on the order of the lines.
    """
    if options.output is None:
        raise UsageError("--output must name the folder for train.jsonl, valid.jsonl and test.jsonl")

    from features.splitting.split_manifest import plan_split
    from features.splitting.write_split import write_split

    plan = plan_split(file, options, output)
    files = write_split(plan, options.output)
    summary = plan.as_json()
    _print(plan, summary["parts"], output)
    output.result(f"{len(plan.documents)} utterances in {len(plan.groups)} groups: " + ", ".join(map(str, files)))
    output.document({**summary, "groups": len(plan.groups), "files": list(map(str, files))})


def _print(plan: SplitPlan, parts: dict[str, dict[str, Any]], output: Output) -> None:
    """Print the classes, speakers and G* of each part, and warn of few speakers."""
    lines = [_classes(name, parts, "classes") for name in _values(parts, "classes")]
    balance = plan.options.balance
    if balance is not None:
        lines += [_classes(name, parts, "balance", f"{balance} ") for name in _values(parts, "balance")]
    for title, key in (("utterances", "utterances"), ("groups", "groups"), ("speakers", "speakers")):
        lines.append((title, *(part[key] for part in parts.values())))
    if any(part["unknown_speaker"] for part in parts.values()):
        lines.append(("without speaker_id", *(part["unknown_speaker"] for part in parts.values())))
    lines.append(("G* of speakers", *(f"{part['effective_speakers']:.1f}" for part in parts.values())))
    output.table(("", *parts), lines)
    for name, part in parts.items():
        number = part["speakers"] + part["unknown_speaker"]
        if number < MIN_SPEAKERS and name not in ("train", "valid") and plan.options.folds is None:
            lost = "no test of a difference" + (" and no interval" if number < 4 else "")
            output.say(f"warning: {name} has {number} speakers: {lost} will be possible")


def _values(parts: dict[str, dict[str, Any]], key: str) -> list[str]:
    """Return the classes, or the values of a key, of all parts."""
    found: set[str] = set()
    for part in parts.values():
        found.update(part[key])
    return sorted(found)


def _classes(name: str, parts: dict[str, dict[str, Any]], key: str, prefix: str = "") -> tuple[str, ...]:
    """Return the counts of one class in each part, with its percentage of the part."""
    cells = []
    for part in parts.values():
        number = part[key].get(name, 0)
        cells.append(f"{number} ({100 * number / part['utterances']:.0f} %)")
    return (prefix + name, *cells)
