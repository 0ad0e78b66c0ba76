"""`mervn finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.options import command
from cli.output import Output
from cli.reporter import CommandReporter
from cli.settings import resolve_data
from features.cpu_threads import set_threads
from mervn.config import FinetuneOptions


@command("finetune")
def finetune_command(options: FinetuneOptions, output: Output) -> None:
    """Train encoders and head end to end; the best epoch is chosen on valid, test is never read.

    With --init-head the data, the encoders and the head come from a train-head run, and live features are first
    compared with those that it was trained on. The same configuration again prints the result that is there, or goes
    on with what was interrupted.
    """
    data = None if options.init_head is not None and options.data is None else resolve_data(options.data)

    from mervn.finetuning.finetune import finetune

    set_threads(options.threads)
    seconds: list[float] = []

    def report(entry: Mapping[str, Any]) -> None:
        found = f"valid macro-F1 {entry['valid']['macro_f1']:.4f} (best: epoch {entry['best_epoch']})"
        if entry["epoch"] == 0:
            output.say(f"epoch 0, as it came in: {found}, {entry['seconds']:.1f} s")
            return
        seconds.append(entry["seconds"])
        left = (options.epochs - entry["epoch"]) * sum(seconds) / len(seconds)
        output.say(
            f"epoch {entry['epoch']}/{options.epochs}: loss {entry['train_loss']:.4f}, {found}, "
            f"{entry['seconds']:.1f} s, at most {left:.0f} s left"
        )

    result = finetune(options, data, CommandReporter(output, report))
    if not result.is_main_process:
        return
    valid = result.metrics["valid"]
    if seconds:
        output.say(f"{len(seconds)} epochs, {sum(seconds) / len(seconds):.1f} s an epoch")
    missing = f", {valid['missing']} missing" if valid["missing"] else ""
    output.result(f"{result.path}: epoch {result.metrics['selected_epoch']} chosen on valid (0: as it came in)")
    output.result(
        f"valid: macro-F1 {valid['macro_f1']:.4f}, accuracy {valid['accuracy']:.4f} ({valid['n']} utterances{missing})"
    )
    output.document({"run": str(result.path), "trained": result.trained, "metrics": result.metrics})
