"""`mervn pretrain-audio`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.epochs import EpochLog
from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.cpu_threads import set_threads
from mervn.config import PretrainOptions


@command("pretrain-audio")
def pretrain_audio(options: PretrainOptions, output: Output) -> None:
    """Pretrain fourier2vec on the audio of train by predicting masked frames.

    It needs no labels and no transcripts. The best epoch is chosen by the loss on valid; test is
    never read. Use the folder as an encoder: --audio-encoder fourier2vec=FOLDER. Repeat the command
    to resume it. The folder's rejected.jsonl lists the utterances whose audio cannot be used.
    """
    data = resolve_data(options.data)

    from mervn.pretraining.pretrain import pretrain

    set_threads(options.threads)
    output.epochs = EpochLog(options.epochs, _scores)
    found = pretrain(options, data, output)
    valid = found.result["valid"]
    output.result(f"{found.path}: {found.result['weights']}, best epoch {found.result['selected_epoch']} on valid")
    output.result(f"{_scores(found.result)} ({valid['mean_l1']:.4f})")
    output.result(f"use it with --audio-encoder fourier2vec={found.path}")
    output.document({"output": str(found.path), "trained": found.trained, "result": found.result})


def _scores(entry: Mapping[str, Any]) -> str:
    """Return the scores on valid of an epoch."""
    valid = entry["valid"]
    return f"valid L1 {valid['l1']:.4f}, {valid['ratio']:.4f} of the error of predicting the mean"
