"""`mervn pretrain-audio`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.options import command
from cli.output import Output
from cli.reporter import CommandReporter
from cli.settings import resolve_data
from features.cpu_threads import set_threads
from mervn.config import PretrainOptions


@command("pretrain-audio")
def pretrain_audio(options: PretrainOptions, output: Output) -> None:
    """Pretrain fourier2vec on the audio of train by predicting masked frames; labels and transcripts are not needed.

    The epoch is chosen by the loss on valid, test is never read. The folder is then an encoder: --audio-encoder
    fourier2vec=FOLDER. The same configuration again prints the result that is there, or goes on with what was
    interrupted. Utterances whose audio cannot be used are listed in the folder's rejected.jsonl.
    """
    data = resolve_data(options.data)

    from mervn.pretraining.pretrain import pretrain

    set_threads(options.threads)

    def report(entry: Mapping[str, Any]) -> None:
        valid = entry["valid"]
        output.say(
            f"epoch {entry['epoch']}: loss {entry['train_loss']:.4f}, valid L1 {valid['l1']:.4f}, "
            f"{valid['ratio']:.4f} of predicting the mean (best: epoch {entry['best_epoch']}), "
            f"{entry['seconds']:.1f} s, {entry['seconds_left']:.0f} s left"
        )

    found = pretrain(options, data, CommandReporter(output, report))
    valid = found.result["valid"]
    output.result(f"{found.path}: {found.result['weights']}, epoch {found.result['selected_epoch']} chosen on valid")
    output.result(f"valid: L1 {valid['l1']:.4f}, {valid['ratio']:.4f} of predicting the mean ({valid['mean_l1']:.4f})")
    output.result(f"use it with --audio-encoder fourier2vec={found.path}")
    output.document({"output": str(found.path), "trained": found.trained, "result": found.result})
