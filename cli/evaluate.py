"""`mervn evaluate`."""

from __future__ import annotations

from pathlib import Path

from cli.options import command
from cli.output import Output
from features.cpu_threads import set_threads
from mervn.config import EvaluateOptions


@command("evaluate", argument="run")
def evaluate_command(run: Path, options: EvaluateOptions, output: Output) -> None:
    """Evaluate a trained run on a split.

    Each evaluation on test is recorded, in the run and beside the data.
    """
    from mervn.evaluation.evaluate import evaluate

    set_threads(options.threads)
    metrics = evaluate(run, options, output)
    scores = metrics[options.split]
    missing = f", {scores['missing']} missing" if scores["missing"] else ""
    rows = []
    for label, found in scores["per_class"].items():
        values = (f"{found['precision']:.4f}", f"{found['recall']:.4f}", f"{found['f1']:.4f}")
        rows.append((label, *values, found["support"]))
    output.table(("label", "precision", "recall", "F1", "support"), rows)
    output.result(
        f"{options.split}: macro-F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}, "
        f"UAR {scores['uar']:.4f} ({scores['n']} utterances{missing})"
    )
    if "test_looks" in metrics:
        count = metrics["test_looks"]
        times = "once" if count == 1 else f"{count} times"
        output.say(f"the test split of this data has been evaluated {times} (test_access.jsonl)")
    output.document({"run": str(run), "metrics": metrics})
