"""`mervn train-head`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.cpu_threads import set_threads
from mervn.config import TrainHeadOptions

if TYPE_CHECKING:
    from mervn.training.results import RunResult
    from mervn.training.seeds_and_folds import SeriesResult


@command("train-head")
def train_head_command(options: TrainHeadOptions, output: Output) -> None:
    """Train a fusion head on stored features; the best epoch is chosen on valid, test is never read.

    Without encoders, the only store of each modality is used. Repeat the command to resume it.
    """
    data = resolve_data(options.data)

    from mervn.training.seeds_and_folds import train_series
    from mervn.training.train_head import train_head

    set_threads(options.threads)
    seconds: list[float] = []
    drawn: list[dict[str, Any]] = []

    def report(entry: dict[str, Any]) -> None:
        seconds.append(entry["seconds"])
        drawn.append(entry["drawn"])
        left = (options.epochs - entry["epoch"]) * sum(seconds) / len(seconds)
        output.say(
            f"epoch {entry['epoch']}/{options.epochs}: loss {entry['train_loss']:.4f}, valid macro-F1 "
            f"{entry['valid']['macro_f1']:.4f} (best: epoch {entry['best_epoch']}), {entry['seconds']:.2f} s, "
            f"at most {left:.0f} s left"
        )

    if options.num_seeds > 1 or options.fold == "all":
        _print_series(train_series(options, data, output.say, report), output)
        return
    result = train_head(options, data, output.say, report)
    if seconds:
        output.say(f"{len(seconds)} epochs, {sum(seconds) / len(seconds):.2f} s an epoch")
        output.say(_sampled(options.sampling, drawn))
    _print_result(result, output)


def _print_result(result: RunResult, output: Output) -> None:
    """Print the chosen epoch of a run, its scores on valid and the weights of its layers."""
    valid = result.metrics["valid"]
    missing = f", {valid['missing']} missing" if valid["missing"] else ""
    output.result(f"{result.path}: epoch {result.metrics['selected_epoch']} chosen on valid")
    output.result(
        f"valid: macro-F1 {valid['macro_f1']:.4f}, accuracy {valid['accuracy']:.4f} ({valid['n']} utterances{missing})"
    )
    for name, weights in result.metrics["layer_weights"].items():
        output.result(f"{name} layers: " + ", ".join(f"{layer} {weight:.3f}" for layer, weight in weights.items()))
    output.document({"run": str(result.path), "trained": result.trained, "metrics": result.metrics})


def _print_series(done: SeriesResult, output: Output) -> None:
    """Print what the runs of several seeds or folds scored together."""
    for fold, scores in done.summary.get("folds", {}).items():
        output.result(f"fold {fold}: valid macro-F1 {scores['macro_f1']['mean']:.4f}")
    for name, found in done.summary["valid"].items():
        output.result(f"valid {name}: {found['mean']:.4f} ± {found['std']:.4f} over {len(done.runs)} runs")
    output.result(f"{done.path}: the runs and summary.json")
    output.document({"run": str(done.path), "summary": done.summary, "runs": [str(run.path) for run in done.runs]})


def _sampled(sampling: str, drawn: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what the sampling drew, on the mean over the epochs."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(drawn)

    real = ", ".join(
        f"{mean(d['padding_efficiency'][name] for d in drawn):.0%} of {name}" for name in drawn[0]["padding_efficiency"]
    )
    shares = ", ".join(f"{label} {mean(d['classes'][label] for d in drawn):.0%}" for label in drawn[0]["classes"])
    return (
        f"sampling {sampling}: {mean(d['covered'] for d in drawn):.0%} of the utterances an epoch, drawn {shares}; "
        f"of the padded rows were real {real}"
    )
