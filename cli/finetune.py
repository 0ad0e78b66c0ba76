"""`mervn finetune`."""

from __future__ import annotations

from cli.epochs import EpochLog
from cli.options import command
from cli.output import Output
from cli.run_report import add_report
from cli.settings import resolve_data
from cli.train_head import print_run
from features.cpu_threads import set_threads
from mervn.config import FinetuneOptions
from mervn.report.page import REPORT_FILE


@command("finetune")
def finetune_command(options: FinetuneOptions, output: Output) -> None:
    """Train encoders and head end to end; the best epoch is chosen on valid, test is never read.

    With --init-head, the data, encoders and head come from a train-head run, and live features are
    first compared with the stored ones. Repeat the command to resume it.
    """
    data = None if options.init_head is not None and options.data is None else resolve_data(options.data)

    from mervn.finetuning.finetune import finetune

    set_threads(options.threads)
    output.epochs = EpochLog(options.epochs)
    result = finetune(options, data, output)
    if not result.is_main_process:
        return
    if output.epochs.trained:
        output.say(output.epochs.summary())
    print_run(result, output)
    if options.report and (result.trained or not (result.path / REPORT_FILE).is_file()):
        add_report(result.path, output)
