"""`mervn evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.options import command
from cli.output import Output
from cli.run_report import add_report
from features.cpu_threads import set_threads
from mervn.config import EvaluateOptions


@command("evaluate", argument="run")
def evaluate_command(run: Path, options: EvaluateOptions, output: Output) -> None:
    """Evaluate a trained run, or a series of seeds or folds, on a split.

    Each evaluation on test is recorded, in the run or series and beside the data.
    """
    from mervn.evaluation.evaluate import evaluate
    from mervn.evaluation.evaluate_series import evaluate_series
    from mervn.evaluation.own_data import with_own_data
    from mervn.evaluation.series import is_series
    from mervn.run_folder import read_config

    set_threads(options.threads)
    if is_series(run):
        metrics = evaluate_series(run, options, output)
        _print_series(metrics, options.split, output)
    else:
        metrics = evaluate(run, options, output)
        _print_run(metrics, options.split, output)
        # the page shows valid or test of the run's own data, with all modalities and the original transcripts
        is_own = with_own_data(read_config(run), options).data is None
        if options.report and options.split != "train" and is_own and options.change is None:
            add_report(run, output)
    if "corrupt" in metrics:
        scores = metrics[options.split]
        means = {name: scores[name]["mean"] if is_series(run) else scores[name] for name in metrics["intervals"]}
        _print_corruption(means, metrics["corrupt"], output)
    if "leak_baselines" in metrics:
        _print_leaks(metrics, options.split, output)
    for key in options.by:
        _print_by(key, metrics["by"][key], output)
    if "test_looks" in metrics:
        count = metrics["test_looks"]
        times = "once" if count == 1 else f"{count} times"
        output.say(f"the test split of this data has been evaluated {times} (test_access.jsonl)")
    output.document({"run": str(run), "metrics": metrics})


def _print_run(metrics: Mapping[str, Any], split: str, output: Output) -> None:
    """Print the scores of each label, then those of the run."""
    scores = metrics[split]
    rows = []
    for label, found in scores["per_class"].items():
        values = (f"{found['precision']:.4f}", f"{found['recall']:.4f}", f"{found['f1']:.4f}")
        rows.append((label, *values, found["support"]))
    output.table(("label", "precision", "recall", "F1", "support"), rows)
    print_scores(scores, metrics, {}, output)
    absent = [label for label, found in scores["per_class"].items() if not found["support"]]
    if absent:
        output.result(f"no utterance of {split} is {' or '.join(absent)}: macro-F1 and UAR leave it out")
    missing = f", {scores['missing']} missing" if scores["missing"] else ""
    output.result(
        f"{split}{_change(metrics)}: macro-F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}, "
        f"UAR {scores['uar']:.4f} ({scores['n']} utterances{missing})"
    )
    calibration = metrics["calibration"]
    if calibration is not None:
        before, after = calibration["before"], calibration["after"]
        output.result(
            f"calibration error {before['ece']:.4f}; {after['ece']:.4f} with temperature "
            f"{calibration['temperature']:.2f}, which was fitted on valid"
        )


def _print_series(metrics: Mapping[str, Any], split: str, output: Output) -> None:
    """Print the scores of each run of a series, then their means over seeds."""
    rows = []
    for run in metrics["runs"]:
        rows.append((run["run"], run["n"], *(f"{run[name]:.4f}" for name in ("macro_f1", "accuracy", "uar"))))
    output.table(("run", "utterances", "macro-F1", "accuracy", "UAR"), rows)
    scores, num_seeds = metrics[split], len(metrics["seeds"])
    means = {name: scores[name]["mean"] for name in metrics["intervals"]}
    stds = {name: scores[name]["std"] for name in metrics["intervals"]} if num_seeds > 1 else {}
    print_scores(means, metrics, stds, output)
    seeds = "1 seed" if num_seeds == 1 else f"means over {num_seeds} seeds"
    folds = f", {len(metrics['folds'])} folds together" if metrics["folds"] else ""
    missing = f", {scores['missing']} missing" if scores["missing"] else ""
    output.result(
        f"{split}{_change(metrics)}: macro-F1 {means['macro_f1']:.4f}, accuracy {means['accuracy']:.4f}, "
        f"UAR {means['uar']:.4f} ({seeds}{folds}, {scores['n']} utterances{missing})"
    )


CORRUPTIONS = {"tones": "exchanged tone marks", "asr": "transcript_asr"}
"""Words for the kinds of --corrupt."""


def _change(metrics: Mapping[str, Any]) -> str:
    """Return ` without text` or ` with exchanged tone marks` if the inputs are changed, else nothing."""
    if "without" in metrics:
        return f" without {metrics['without']}"
    return f" with {CORRUPTIONS[metrics['corrupt']['kind']]}" if "corrupt" in metrics else ""


def _print_corruption(scores: Mapping[str, float], corrupt: Mapping[str, Any], output: Output) -> None:
    """Print the scores with corrupted transcripts beside those with the original ones."""
    from mervn.evaluation.verdict import METRIC_NAMES

    rows = []
    for metric, found in corrupt["difference"].items():
        interval, p = found["interval"], found["p"]
        bounds = "none" if interval is None else f"{interval['low']:.4f} to {interval['high']:.4f}"
        values = (f"{corrupt['original'][metric]:.4f}", f"{scores[metric]:.4f}", f"{found['difference']:+.4f}")
        rows.append((METRIC_NAMES[metric], *values, bounds, "none" if p is None else f"{p:.4f}"))
    output.table(("score", "original", "corrupted", "difference", "95 % interval", "p"), rows)
    rate = corrupt["syllable_error_rate"]
    errors = "" if rate is None else f"; {100 * rate:.1f} errors per 100 syllables"
    kind = CORRUPTIONS[corrupt["kind"]]
    output.result(f"{kind}: {corrupt['changed_transcripts']} transcripts differ from the original{errors}")


def print_scores(
    scores: Mapping[str, float], metrics: Mapping[str, Any], stds: Mapping[str, float], output: Output
) -> None:
    """Print each score with its interval and both baselines, and what the intervals rest on."""
    from mervn.evaluation.intervals import MIN_INTERVAL_UNITS
    from mervn.evaluation.verdict import METRIC_NAMES, describe_units, no_interval

    rows = []
    for name, interval in metrics["intervals"].items():
        bounds = "none" if interval is None else f"{interval['low']:.4f} to {interval['high']:.4f}"
        chance, majority = (metrics["baselines"][kind][name] for kind in ("chance", "majority"))
        spread = [f"{stds[name]:.4f}"] if stds else []
        rows.append((METRIC_NAMES[name], f"{scores[name]:.4f}", *spread, bounds, f"{chance:.4f}", f"{majority:.4f}"))
    spread_header = ["over seeds ±"] if stds else []
    output.table(("score", "value", *spread_header, "95 % interval", "chance", "majority"), rows)
    if any(interval is not None and interval["low"] == interval["high"] for interval in metrics["intervals"].values()):
        output.result("an interval of width 0 means that no unit changes the score, not that the score is certain")
    for unit in metrics["units"]:
        words = describe_units(unit)
        if unit["groups"] < MIN_INTERVAL_UNITS:
            output.result(no_interval(words))
        elif len(metrics["units"]) > 1:
            used = [METRIC_NAMES[name] for name, each in metrics["intervals"].items() if _rests_on(each, unit)]
            output.result(f"intervals of {', '.join(used) or 'no score (others are wider)'}: {words}")
        else:
            output.result(f"intervals: {words}")
    answer = metrics["baselines"]["majority"]["label"]
    output.result(f"chance: guess each label equally often; majority: always answer {answer}")


def _rests_on(interval: Mapping[str, Any] | None, unit: Mapping[str, Any]) -> bool:
    """Tell whether the interval of a score rests on a unit."""
    return interval is not None and bool(interval["unit"] == unit["unit"])


def _print_leaks(metrics: Mapping[str, Any], split: str, output: Output) -> None:
    """Print the scores of the baselines that show shortcuts beside those of the run."""
    from mervn.evaluation.verdict import leak_sentence

    def row(name: str, scores: Mapping[str, Any], intervals: Mapping[str, Any]) -> tuple[str, ...]:
        cells = [name]
        for metric in ("macro_f1", "accuracy"):
            interval, value = intervals[metric], scores[metric]
            bounds = "none" if interval is None else f"{interval['low']:.4f} to {interval['high']:.4f}"
            cells += [f"{value['mean'] if isinstance(value, Mapping) else value:.4f}", bounds]
        return tuple(cells)

    rows = [row("this run", metrics[split], metrics["intervals"])]
    for name, scores in metrics["leak_baselines"].items():
        words = name.replace("_", " ")
        rows.append((words, "unknown", "", "", "") if scores is None else row(words, scores, scores["intervals"]))
    output.table(("reads only", "macro-F1", "95 % interval", "accuracy", "95 % interval"), rows)
    found = {**metrics["leak_baselines"]}
    shuffled = found.pop("shuffled_labels")
    output.result(leak_sentence(found))
    if shuffled is not None and shuffled["above_chance"]:
        output.result(
            "warning: a classifier that was fitted to shuffled labels scores above chance; the scored labels must "
            "reach its predictions in some way, so no score of this split can be trusted"
        )


def _print_by(key: str, values: Mapping[str, Mapping[str, Any]], output: Output) -> None:
    """Print the scores of each value of a key."""
    rows = []
    for value, scores in values.items():
        numbers = [f"{scores[name]:.4f}" for name in ("macro_f1", "accuracy", "uar")]
        rows.append((value, scores["n"], scores["groups"], *numbers))
    output.table((key, "utterances", "groups", "macro-F1", "accuracy", "UAR"), rows)
