"""`mervn ensemble`."""

from __future__ import annotations

from pathlib import Path

from cli.evaluate import print_scores
from cli.options import command
from cli.output import Output
from mervn.config import EnsembleOptions


@command("ensemble", argument="runs", several=True)
def ensemble_command(runs: tuple[Path, ...], options: EnsembleOptions, output: Output) -> None:
    """Score the mean of the probabilities of several runs, or of all seeds of a series.

    Nothing is predicted: evaluate the runs first. --choose looks at valid only. An ensemble on test
    is recorded as a look at test.
    """
    from mervn.evaluation.ensemble import ensemble

    found = ensemble(runs, options, output)
    metrics = found["metrics"]
    scores = metrics[options.split]
    output.table(("member", "macro-F1"), [(one["run"], f"{one['macro_f1']:.4f}") for one in metrics["members"]])
    if found["chosen_on"] is not None:
        output.result(f"chosen on valid: {len(found['members'])} of {len(found['candidates'])} runs")
        if options.split == "valid":
            output.result("valid chose the members, so their score on valid is too high; score them on test once")
    print_scores(scores, metrics, {}, output)
    output.result(
        f"{options.split}: macro-F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}, "
        f"UAR {scores['uar']:.4f} ({scores['n']} utterances)"
    )
    if "test_looks" in metrics:
        output.say(f"looks at the test split of this data: {metrics['test_looks']} (test_access.jsonl)")
    output.result(f"results are in {found['folder']}")
    output.document(found)
