"""`mervn transcribe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.errors import UsageError, name_some
from mervn.transcription.transcribe_options import TranscribeOptions

if TYPE_CHECKING:
    from mervn.transcription.transcribe import Transcription
    from mervn.transcription.word_errors import WordErrors


@command("transcribe", argument="folder", optional=True)
def transcribe_command(folder: Path | None, options: TranscribeOptions, output: Output) -> int:
    """Transcribe a corpus with Whisper or PhoWhisper.

    FOLDER is the data folder; --data names it too. Its manifests are written to --output with the
    key transcript_asr, which `mervn evaluate --corrupt asr` reads. Repeat the command to resume it.
    It prints the word error rate against the transcripts. The exit code is 1 if audio cannot be
    used; rejected.jsonl lists it.
    """
    if folder is not None and options.data is not None and "data" in options.given:
        raise UsageError(f"give the data folder once, found {folder} and --data {options.data}")
    data = resolve_data(folder if folder is not None else options.data)

    from mervn.transcription.transcribe import transcribe_corpus

    done = transcribe_corpus(data, options, output)
    if done.word_errors is None:
        output.say("no word error rates: install jiwer (extra `asr`) and run the same command again")
    else:
        _print_errors(done.word_errors, output)
    _print_summary(done, output)
    files = list(map(str, done.files))
    output.document({"output": str(done.output), "kept": done.kept, "files": files, **done.as_json()})
    return 1 if done.rejected else 0


def _print_errors(word_errors: dict[str, WordErrors], output: Output) -> None:
    """Print the word error rate of each split."""
    lines = []
    for split, found in word_errors.items():
        counts = (found.substitutions, found.deletions, found.insertions)
        lines.append((split, found.utterances, found.words, _percent(found.rate), _interval(found), *counts))
    header = ("split", "utterances", "words", "WER", "95 % interval", "substitutions", "deletions", "insertions")
    output.table(header, lines)
    for split, found in word_errors.items():
        if found.interval is None:
            output.result(f"{split}: no interval, which needs at least 4 speakers, found {found.speakers}")
        elif found.interval.unit == "utterance":
            output.result(f"{split}: the interval assumes independent utterances, because speaker_id groups none")
        else:
            output.result(f"{split}: interval over {found.interval.groups} speakers")
    without = sum(found.without_reference for found in word_errors.values())
    if without:
        output.result(f"{without} utterances without transcript are left out of the word error rate")


def _percent(rate: float | None) -> str:
    return "none" if rate is None else f"{100 * rate:.1f} %"


def _interval(found: WordErrors) -> str:
    interval = found.interval
    return "none" if interval is None else f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _print_summary(done: Transcription, output: Output) -> None:
    """Print the work done, what is suspicious, and the cost."""
    rejected = f", {len(done.rejected)} rejected (see rejected.jsonl)" if done.rejected else ""
    output.result(f"{done.output}: {done.transcribed} transcribed, {done.kept} kept{rejected}")
    if done.truncated:
        output.say(
            f"warning: {len(done.truncated)} texts have the maximum number of tokens, most often because a phrase "
            f"repeats: {name_some(done.truncated)}"
        )
    if done.transcribed:
        output.say(f"  {done.seconds:.1f} s; {done.audio_seconds / done.seconds:.1f}x real time")
