"""Plain words for evidence: the verdict of a comparison, the units of an interval, what weakens a result.

The command line and the reports take their sentences from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from features.counts import counted
from features.errors import name_some
from mervn.evaluation.compare import Comparison, UnitDifference
from mervn.evaluation.intervals import INDEPENDENT, MIN_INTERVAL_UNITS, MIN_TEST_UNITS

METRIC_NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "uar": "UAR", "weighted_f1": "weighted F1"}
UNIT_NAMES = {
    "speaker_id": ("speaker", "speakers"),
    "wav_path": ("recording", "recordings"),
    "transcript": ("transcript", "transcripts"),
    "utterance": ("utterance", "utterances"),
}
"""Singular and plural of the units that have a name; others are values of their key."""
LEAK_NAMES = {
    "duration": "the duration",
    "empty_transcript": "whether the transcript is empty",
    "seen_transcript": "the label of the same transcript in train",
    "speaker": "the label of the same speaker in train",
}
"""Words for what each baseline of --leak-baselines reads."""
BEATS, DOES_NOT_BEAT = "beats linear", "does not beat linear"
"""Whether the interval of the difference between a row of a study and its linear head is above 0."""
BASELINES_NOTE = (
    "Baselines are at the end and outside of this correction. majority: always the most frequent label of train. "
    "linear: logistic regression on the time-means of the same features. A row does not beat linear if a 95 % "
    "interval of the difference to it, over units or over seeds, includes 0 or is below 0; these are not corrected."
)
"""What a table of a study says about its baselines."""
OVER_SEEDS_NOTE = (
    "Over seeds: 95 % t interval of the difference of paired seeds. A difference between two settings is shown only if "
    "the units and the seeds both show it."
)
"""What a table of a study with several seeds says about its differences."""
SEEDS_TO_TRAIN = 5
"""Number of seeds that is suggested if there is one of each."""
SMALLEST_SHOWN = 0.0001
"""Smaller p-values are not written out."""
DOMINANT = 0.6
"""G* / G below which a few units decide a score."""
CHOSEN_ON_VALID = "Epochs were chosen on valid, so these scores are optimistic. Only test counts for a claim."
UNKNOWN_UNITS = (
    "The speakers are unknown, or each speaks once: the intervals assume independent utterances and are too narrow if "
    "speakers have effects."
)


def flag_of(against_linear: str, low: float) -> str:
    """Return what a table says after the difference to linear, whose interval over units begins at `low`."""
    if against_linear != DOES_NOT_BEAT:
        return ""
    return f": {DOES_NOT_BEAT} over seeds" if low > 0 else f": {DOES_NOT_BEAT}"


def count_units(unit: str, count: int) -> str:
    """Return a number of units in words, such as `24 speakers`."""
    one, many = UNIT_NAMES.get(unit, (f"value of {unit}", f"values of {unit}"))
    return f"{count} {one if count == 1 else many}"


def no_interval(units: str) -> str:
    """Return why there is no interval; `units` are the units found, in words."""
    return f"no interval: it needs at least {MIN_INTERVAL_UNITS} units, found {units}"


def interval_text(interval: Mapping[str, Any] | None, units: Sequence[Mapping[str, Any]]) -> str:
    """Return an interval of metrics-<split>.json and its units in words, or why there is none."""
    if interval is not None:
        of = count_units(interval["unit"], interval["groups"])
        return f"{interval['low']:.3f} to {interval['high']:.3f} over {of}"
    if units:
        return no_interval(count_units(units[0]["unit"], units[0]["groups"]))
    return "no interval: mervn evaluate computes it"


def comparison_needs(units: str) -> str:
    """Return why there is no test; `units` are the units found, in words."""
    return f"a test needs at least {MIN_TEST_UNITS} units, found {units}"


def not_compared(rows: Sequence[tuple[str, int]], reference: int) -> str:
    """Return that rows, each with its number of utterances, are not compared with a reference of so many.

    Empty without rows.
    """
    if not rows:
        return ""
    names = name_some([f"{name} ({count})" for name, count in rows], "; ")
    return (
        f"Not compared with the reference ({counted(reference, 'utterance')}), because their utterances, labels or "
        f"seeds are others: {names}."
    )


def weak_units(unit: str, num: int, effective: float, independent: bool) -> str | None:
    """Return what the units of a result cannot support, in one sentence; None if there is no objection.

    num and effective: G and G*.
    """
    if independent:
        return UNKNOWN_UNITS
    if num < MIN_TEST_UNITS:
        return f"No difference between two models can be tested: {comparison_needs(count_units(unit, num))}."
    if effective < DOMINANT * num:
        return f"A few have most of the utterances: {count_units(unit, num)} count as {effective:.1f}."
    return None


def describe_units(unit: Mapping[str, Any]) -> str:
    """Return G and G* of an entry of `units` in metrics-<split>.json, in words."""
    text = f"G = {count_units(unit['unit'], unit['groups'])}"
    if unit["independent"]:
        return f"{text}, assumed independent because {unit['key']} does not group them"
    return f"{text}, worth G* = {unit['effective_groups']:.1f} of equal size"


def sentence(found: Comparison) -> str:
    """Return the verdict of a comparison in one sentence."""
    decisive, metric = found.decisive, METRIC_NAMES[found.metric]
    mean_a, mean_b = _mean(found.scores_a), _mean(found.scores_b)
    seeds = f" (means of {len(found.pairs)} seeds)" if len(found.pairs) > 1 else ""
    values = f"{mean_a:.4f} against {mean_b:.4f}{seeds}"
    better, other, ordered = found.a, found.b, values
    if decisive.paired.difference < 0:
        better, other, ordered = found.b, found.a, f"{mean_b:.4f} against {mean_a:.4f}{seeds}"
    size = f"{abs(decisive.paired.difference):.4f}"
    if found.verdict == "no_test":
        return (
            f"No test is possible between {found.a} and {found.b} on {found.split}: "
            f"{comparison_needs(count_units(decisive.units.name, decisive.units.num))}; "
            f"{metric} is {values}, difference {decisive.paired.difference:+.4f} ({_evidence(decisive)})."
        )
    if found.verdict == "difference":
        return (
            f"{better} is better than {other} by {size} {metric} on {found.split} ({_evidence(decisive)}): {ordered}."
        )
    if found.verdict == "seeds_disagree":
        return (
            f"{better} scores {size} more {metric} than {other} on {found.split} ({_evidence(decisive)}), but the data "
            f"cannot show a difference between the settings, because the difference changes with the seed "
            f"({_over_seeds(found)}): {ordered}."
        )
    return (
        f"The data cannot show a difference between {found.a} and {found.b} on {found.split}: {metric} is {values}, "
        f"difference {decisive.paired.difference:+.4f} ({_evidence(decisive)}); {_smallest(found)}."
    )


def seed_remark(found: Comparison) -> str | None:
    """Return what the seeds say about the setting, in one sentence; None if the verdict says it."""
    if found.verdict == "seeds_disagree":
        return None
    if found.over_seeds is None:
        return (
            "One seed of each cannot separate the setting from the seed: train both with at least "
            f"{SEEDS_TO_TRAIN} seeds (train-head --num-seeds {SEEDS_TO_TRAIN}) and compare the two folders."
        )
    return f"Over {len(found.pairs)} paired seeds: {_over_seeds(found)}."


def baselines_remark(found: Comparison) -> str:
    """Return the scores of both baselines on the same utterances, in one sentence."""
    chance, majority = found.baselines["chance"], found.baselines["majority"]
    return (
        f"On these utterances, the {METRIC_NAMES[found.metric]} of chance is {chance[found.metric]:.4f}, that of the "
        f"majority (always answer {majority['label']}) is {majority[found.metric]:.4f}."
    )


def _over_seeds(found: Comparison) -> str:
    """Return the differences of the seeds and their interval, in words."""
    seeds = found.over_seeds
    if seeds is None:
        return ""
    values = ", ".join(f"{value:+.4f}" for value in seeds.values)
    text = f"difference {values}, standard deviation {seeds.std:.4f}, 95 % interval {seeds.low:.4f} to {seeds.high:.4f}"
    if seeds.low <= 0 <= seeds.high and seeds.seeds_needed is not None:
        text += f"; about {seeds.seeds_needed} seeds would be needed to show such a mean"
    return text


def _evidence(of: UnitDifference) -> str:
    """Return interval, p and units of a difference, in words."""
    paired, units = of.paired, of.units
    parts = [f"no interval below {MIN_INTERVAL_UNITS} units"]
    if paired.interval is not None:
        parts = [f"95 % interval {signed_interval(of)}"]
    if paired.p is not None:
        parts.append(f"p = {paired.p:.4f}" if paired.p >= SMALLEST_SHOWN else f"p < {SMALLEST_SHOWN}")
    parts.append(f"G = {count_units(units.name, units.num)}")
    parts.append(INDEPENDENT if units.independent else f"G* = {units.effective:.1f}")
    return ", ".join(parts)


def signed_interval(of: UnitDifference) -> str:
    """Return the interval of A minus B; if B is better, of B minus A, as the sentence says it."""
    interval = of.paired.interval
    if interval is None:
        return "none"
    low, high = interval.low, interval.high
    if of.is_shown and of.paired.difference < 0:
        low, high = -high, -low
    return f"{low:.4f} to {high:.4f}"


def _smallest(found: Comparison) -> str:
    """Return the smallest difference that units and seeds could both show, in words."""
    of_units, seeds = found.decisive.paired.smallest_difference, found.over_seeds
    if of_units is None:
        return "A and B do not differ on any unit, so the data do not tell what they could show"
    smallest, limit = of_units, f"the {count_units(found.decisive.units.name, found.decisive.units.num)}"
    if seeds is not None and seeds.smallest_difference > of_units:
        smallest, limit = seeds.smallest_difference, f"the {len(found.pairs)} seeds"
    return f"the smallest difference that {limit} could show is about {smallest:.4f} (in 4 of 5 cases)"


def _mean(values: Any) -> float:
    """Return the mean of the scores."""
    return float(sum(values) / len(values))


def document(found: Comparison) -> dict[str, Any]:
    """Return the JSON document of a comparison."""
    return {
        "a": _side(str(found.a), found.scores_a),
        "b": _side(str(found.b), found.scores_b),
        "split": found.split,
        "metric": found.metric,
        "n": found.n,
        "seeds": [list(pair) for pair in found.pairs],
        "left_out": list(found.left_out),
        "verdict": found.verdict,
        "sentence": sentence(found),
        "seed_remark": seed_remark(found),
        "baselines": {name: dict(scores) for name, scores in found.baselines.items()},
        "difference": _difference(found.decisive),
        "by_unit": [_difference(each) for each in found.by_unit],
        "over_seeds": None if found.over_seeds is None else asdict(found.over_seeds),
        "configuration": {name: list(pair) for name, pair in found.configuration.items()},
    }


def _side(path: str, scores: Any) -> dict[str, Any]:
    """Return the entry of A or B."""
    return {"path": path, "scores": list(scores), "mean": _mean(scores)}


def _difference(of: UnitDifference) -> Mapping[str, Any]:
    """Return the difference by one unit, with its key."""
    return {"key": of.key, "unit": of.units.name, "independent": of.units.independent, **of.paired.as_json()}


def leak_sentence(baselines: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Return what the baselines of --leak-baselines show, from their scores by name."""
    known = {name: scores for name, scores in baselines.items() if scores is not None}
    above = [LEAK_NAMES[name] for name, scores in known.items() if scores["above_chance"]]
    if above:
        words = " and ".join(filter(None, [", ".join(above[:-1]), above[-1]]))
        return (
            f"warning: {words} alone {'tells' if len(above) == 1 else 'each tell'} the emotion better than chance "
            "on this split; a model can score above chance without hearing or reading the emotion"
        )
    if any(interval is None for scores in known.values() for interval in scores["intervals"].values()):
        return "without intervals, nothing can be said about whether these baselines are better than chance"
    return "none of these baselines is shown to be better than chance"
