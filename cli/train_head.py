"""`mervn train-head`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cli.epochs import EpochLog
from cli.options import command
from cli.output import Output
from cli.run_report import add_report
from cli.settings import flag_name, resolve_data
from features.cpu_threads import set_threads
from features.encoders.selector import names_code
from mervn.config import TrainHeadOptions
from mervn.report.page import REPORT_FILE

if TYPE_CHECKING:
    from mervn.training.results import RunResult
    from mervn.training.seeds_and_folds import SeriesResult


@command("train-head")
def train_head_command(options: TrainHeadOptions, output: Output) -> None:
    """Train a head on stored features; the best epoch is chosen on valid, test is never read.

    Without encoders, the only store of each modality is used. Repeat the command to resume it.
    """
    data = resolve_data(options.data)

    from mervn.training.seeds_and_folds import train_series
    from mervn.training.train_head import train_head

    set_threads(options.threads)
    output.epochs = EpochLog(options.epochs)
    if options.num_seeds > 1 or options.fold == "all":
        _print_series(train_series(options, data, output), output)
        return
    result = train_head(options, data, output)
    if output.epochs.entries:
        output.say(output.epochs.summary())
        output.say(_sampled(options.sampling, [entry["drawn"] for entry in output.epochs.entries]))
    print_run(result, output)
    if options.report and (result.trained or not (result.path / REPORT_FILE).is_file()):
        add_report(result.path, output)
    if "C" not in result.metrics:  # a linear head has no seed
        output.say(f"or train it with another seed:\n  {_next_seed_command(result.path)}")


def print_run(result: RunResult, output: Output) -> None:
    """Print the best epoch of a run, its scores on valid and the weights of its layers."""
    valid = result.metrics["valid"]
    missing = f", {valid['missing']} missing" if valid["missing"] else ""
    epoch, strength = result.metrics["selected_epoch"], result.metrics.get("C")
    best = f"best epoch {epoch}{'' if epoch else ' (the initial model)'}" if strength is None else f"C {strength}"
    output.result(f"{result.path}: {best}, chosen on valid")
    output.result(
        f"valid: macro-F1 {valid['macro_f1']:.4f}, accuracy {valid['accuracy']:.4f} ({valid['n']} utterances{missing})"
    )
    output.result(_baselines([valid]))
    for name, weights in result.metrics["layer_weights"].items():
        output.result(f"{name} layers: " + ", ".join(f"{layer} {weight:.3f}" for layer, weight in weights.items()))
    warning = output.epochs.small_valid_warning(valid) if output.epochs.entries else None
    if warning is not None:
        output.say(warning)
    output.say(f"evaluate it:\n  {_evaluate_command(result.path)}")
    output.document({"run": str(result.path), "trained": result.trained, "metrics": result.metrics})


def _print_series(done: SeriesResult, output: Output) -> None:
    """Print the scores over the runs of several seeds or folds."""
    for fold, scores in done.summary.get("folds", {}).items():
        output.result(f"fold {fold}: valid macro-F1 {scores['macro_f1']['mean']:.4f}")
    for name, found in done.summary["valid"].items():
        output.result(f"valid {name}: {found['mean']:.4f} ± {found['std']:.4f} over {len(done.runs)} runs")
    output.result(f"{done.path}: the runs and summary.json")
    output.result(_baselines([run.metrics["valid"] for run in done.runs]))
    output.say(f"evaluate them, as one look at test:\n  {_evaluate_command(done.path)}")
    output.document({"run": str(done.path), "summary": done.summary, "runs": [str(run.path) for run in done.runs]})


def _baselines(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the scores of chance and of the most frequent label on valid, means over runs."""
    import numpy as np

    from mervn.evaluation.baselines import baselines

    found = []
    for scores in runs:
        support = np.array([of_class["support"] for of_class in scores["per_class"].values()])
        found.append(baselines(support, list(scores["per_class"])))
    parts = []
    for kind in ("chance", "majority"):
        macro_f1 = fmean(one[kind]["macro_f1"] for one in found)
        accuracy = fmean(one[kind]["accuracy"] for one in found)
        parts.append(f"{kind} has macro-F1 {macro_f1:.4f}, accuracy {accuracy:.4f}")
    return "on valid, " + "; ".join(parts)


def _evaluate_command(run: Path) -> str:
    return shlex.join(["mervn", "evaluate", str(run), "--split", "test"])


def _next_seed_command(run: Path) -> str:
    """Return the command that trains the configuration of a run with the next seed."""
    from mervn.run_folder import CONFIG_FILE, read_config

    options = read_config(run).options
    flags = ["--seed", str(int(options["seed"]) + 1)]
    for name in ("fusion", "pooling", "loss", "audio_encoder", "text_encoder"):
        if names_code(str(options.get(name))):  # code of a file runs only if a flag names it
            flags += [flag_name(name), str(options[name])]
    return shlex.join(["mervn", "train-head", "--config", str(run / CONFIG_FILE), *flags])


def _sampled(sampling: str, drawn: Sequence[Mapping[str, Any]]) -> str:
    """Return what the sampling drew, as means over the epochs."""

    def mean_of(key: str) -> str:
        means = []
        for name in drawn[0][key]:
            means.append(f"{name} {fmean(one[key][name] for one in drawn):.0%}")
        return ", ".join(means)

    covered = fmean(one["covered"] for one in drawn)
    return (
        f"sampling {sampling}: {covered:.0%} of the utterances per epoch; drawn classes: "
        f"{mean_of('classes')}; real frames and tokens in the padded batches: "
        f"{mean_of('padding_efficiency')}"
    )
