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
TOLERANCE = 0.25
"""Relative difference of a part's size from the wanted one from which it is reported."""


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
    """Print the classes, utterances, groups, speakers and G* of each part."""
    lines = [_classes(name, parts, "classes") for name in _values(parts, "classes")]
    balance = plan.options.balance
    if balance is not None:
        lines += [_classes(name, parts, "balance", f"{balance} ") for name in _values(parts, "balance")]
    sizes = [part["utterances"] for part in parts.values()]
    lines.append(("utterances", *(f"{size} ({100 * size / sum(sizes):.0f} %)" for size in sizes)))
    for key in ("groups", "speakers"):
        lines.append((key, *(part[key] for part in parts.values())))
    if any(part["unknown_speaker"] for part in parts.values()):
        lines.append(("without speaker_id", *(part["unknown_speaker"] for part in parts.values())))
    lines.append(("G* of speakers", *(f"{part['effective_speakers']:.1f}" for part in parts.values())))
    output.table(("", *parts), lines)
    _warn(plan, parts, output)


def _warn(plan: SplitPlan, parts: dict[str, dict[str, Any]], output: Output) -> None:
    """Warn of parts of another size than the wanted one, and of few speakers in test."""
    total = len(plan.documents)
    for (name, part), fraction in zip(parts.items(), plan.options.part_fractions, strict=True):
        found = part["utterances"] / total
        if abs(found - fraction) > TOLERANCE * fraction:
            output.say(
                f"warning: {name} has {100 * found:.1f} % of the utterances instead of {100 * fraction:.1f} %: groups "
                f"are not divided, and the largest of {len(plan.groups)} has {plan.groups.largest} utterances"
            )
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
