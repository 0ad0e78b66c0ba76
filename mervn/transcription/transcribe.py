"""Transcription of audio and of a corpus: batches, resuming, new manifests, word error rates."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from features.atomic_files import read_object, write_atomically, write_json, write_jsonl
from features.audio.resampling import SAMPLE_RATE, Samples
from features.audio.segment import AudioError
from features.batching import plan_batches
from features.canonical import canonical_json
from features.cpu_threads import set_threads
from features.device import resolve_device
from features.environment import made_with
from features.errors import MAX_NAMED, InputError, UsageError
from features.extraction.audio_reader import AudioReader
from features.extraction.encoder_input import InputComparison, source_of
from features.extraction.measure import measure_audio
from features.extraction.unit_reader import default_workers
from features.manifests.manifest import Manifests, Utterance, read_manifests
from features.manifests.rewrite import copy_manifests
from features.progress import SILENT, Reporter
from features.signals import check_interrupted, interruptible
from features.store.rejected import REJECTED_FILE, Rejection
from mervn.data.corrupted import ASR_KEY
from mervn.result_folder import locked, require_same
from mervn.run_folder import LEDGER_FILE
from mervn.transcription.asr_checkpoint import load_checkpoint
from mervn.transcription.speech_recognizer import SpeechRecognizer
from mervn.transcription.transcribe_options import TranscribeOptions, parse_model
from mervn.transcription.transcripts import Transcript, append_transcripts, read_transcripts
from mervn.transcription.word_errors import WordErrors, count_word_errors

TRANSCRIPTION_FILE = "transcription.json"
"""Configuration of a transcription, written first; its results are added at the end."""
BATCH_SIZE = {"cpu": 4, "cuda": 32}
PRECISION = {"off": "fp32", "bf16": "bf16"}


@dataclass
class Transcription:
    """Result of a transcription of a corpus."""

    output: Path
    texts: dict[str, str] = field(default_factory=dict)
    """By utterance id."""
    truncated: list[str] = field(default_factory=list)
    """Ids of the utterances whose text has the maximum number of tokens."""
    rejected: list[Rejection] = field(default_factory=list)
    """Utterances whose audio cannot be used."""
    kept: int = 0
    """Number of texts of an earlier call."""
    files: list[Path] = field(default_factory=list)
    audio_seconds: float = 0.0
    """Audio that was transcribed now."""
    seconds: float = 0.0
    word_errors: dict[str, WordErrors] | None = None
    """By split; None without jiwer."""

    @property
    def transcribed(self) -> int:
        """Number of utterances that were transcribed now."""
        return len(self.texts) - self.kept

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object without the texts."""
        errors = self.word_errors
        return {
            "utterances": len(self.texts),
            "rejected": len(self.rejected),
            "truncated": self.truncated,
            "word_errors": None if errors is None else {split: found.as_json() for split, found in errors.items()},
        }


def load_recognizer(
    model: str, language: str = "vi", device: str = "auto", amp: str = "off", option: str = "--model"
) -> SpeechRecognizer:
    """Load a model for speech recognition, `whisper=ID` or `whisper=FOLDER`, onto a device.

    `option` is the command-line option that messages name.
    """
    selector, place = parse_model(model, option), resolve_device(device)
    return SpeechRecognizer(load_checkpoint(selector, language), place, PRECISION[amp])


def transcribe(items: Sequence[Samples], model: str | SpeechRecognizer, device: str = "auto") -> list[str]:
    """Return the text of each item, audio float32 (S,) at 16 kHz.

    `model` is whisper=MODEL, or a loaded recognizer for several calls. InputError if an item is
    empty or does not fit into memory.
    """
    recognizer = load_recognizer(model, device=device) if isinstance(model, str) else model
    lengths = list(map(len, items))
    if 0 in lengths:
        raise InputError(f"audio must have samples, found none in item {lengths.index(0)}")
    texts = [""] * len(items)
    for batch in plan_batches(lengths, math.inf, BATCH_SIZE.get(recognizer.device.type, 1)):
        for i, found in zip(batch, recognizer.recognize([items[i] for i in batch]), strict=True):
            if found is None:
                raise InputError(f"{lengths[i] / SAMPLE_RATE:.1f} s of audio do not fit into memory: cut item {i}")
            texts[i] = found.text
    return texts


def transcribe_corpus(data: Path, options: TranscribeOptions, reporter: Reporter = SILENT) -> Transcription:
    """Transcribe the utterances of a data folder and write manifests with the key transcript_asr.

    Texts of an earlier call with the same model and language are kept if their audio has not
    changed. UsageError if the output folder is that of another transcription.
    """
    output = _check_output(data, options.output)
    manifests = read_manifests(
        data, options.splits, audio_root=options.audio_root, require_emotion=False, reporter=reporter
    )
    _refuse_key(manifests)
    set_threads(options.threads)
    recognizer = load_recognizer(options.model, options.language, options.device, options.amp)
    identity = recognizer.identity()
    config = {"data": str(data.resolve()), "identity": identity}
    with locked(output, TRANSCRIPTION_FILE, "transcription"), interruptible():
        document = _begin(data, output, config)
        model = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
        work = _Work(recognizer, model, Transcription(output), options.workers, reporter)
        work.run(list(manifests.all_utterances()), options.batch_size, options.threads)
        done = work.done
        done.files = copy_manifests(
            manifests, data, output, ASR_KEY, done.texts, move_audio=options.audio_root is None
        )  # fmt: skip
        _write_rejected(output, done.rejected)
        if importlib.util.find_spec("jiwer") is not None:
            done.word_errors = {name: count_word_errors(split, done.texts) for name, split in manifests.items()}
        source = recognizer.checkpoint.source.as_json()
        software = made_with("audio", recognizer.device)
        write_json(output / TRANSCRIPTION_FILE, {**document, "source": source, "made_with": software, **done.as_json()})
    return done


class _Work:
    """Transcribes the utterances that have no text yet."""

    def __init__(
        self, recognizer: SpeechRecognizer, model: str, done: Transcription, workers: int | None, reporter: Reporter
    ) -> None:
        self.recognizer, self.model, self.done, self.reporter = recognizer, model, done, reporter
        self.workers = default_workers(recognizer.device) if workers is None else workers

    def run(self, utterances: Sequence[Utterance], batch_size: int | None, threads: int | None) -> None:
        """Keep valid texts, transcribe the other utterances, and collect those that cannot be read."""
        started = time.perf_counter()
        self._keep(utterances)
        pending, seconds = self._measure([u for u in utterances if u.utterance_id not in self.done.texts], threads)
        size = batch_size or BATCH_SIZE.get(self.recognizer.device.type, 1)
        batches = plan_batches(seconds, math.inf, size)
        reader, order = AudioReader(self.workers), list(chain.from_iterable(batches))
        bar = self.reporter.progress(len(self.done.texts) + len(pending), len(self.done.texts), "transcribe")
        with closing(bar), closing(reader):
            reader.prepare([pending[i] for i in order], [seconds[i] for i in order])
            for batch in batches:
                check_interrupted()
                self._transcribe([pending[i] for i in batch], reader)
                bar.update(len(batch))
        self.done.seconds = time.perf_counter() - started

    def _keep(self, utterances: Sequence[Utterance]) -> None:
        """Take the texts of an earlier call whose audio is the same."""
        known = read_transcripts(self.done.output, self.model)
        kept = [one for one in utterances if one.utterance_id in known]
        if not kept:
            return
        comparison, changed, moved = InputComparison("audio", self.reporter), 0, list[Transcript]()
        compared = comparison.compare((one, one, known[one.utterance_id]) for one in kept)
        with closing(self.reporter.progress(len(kept), 0, "kept transcripts")) as bar, closing(compared):
            for utterance, found in compared:
                bar.update(1)
                transcript = known[utterance.utterance_id]
                if found == "changed":
                    changed += 1
                elif not isinstance(found, AudioError):  # an error is met again below, and explained
                    self._add(transcript)
                if found == "moved":  # its source is recorded, so that it is not decoded again
                    moved.append(replace(transcript, source=comparison.source(utterance).json_text()))
        append_transcripts(self.done.output, moved)
        self.done.kept = len(self.done.texts)
        if changed:
            self.reporter.say(f"{changed} utterances are transcribed again: their audio changed")

    def _measure(self, utterances: Sequence[Utterance], threads: int | None) -> tuple[list[Utterance], list[float]]:
        """Return the utterances whose audio can be opened, and their seconds; reject the others."""
        measured = measure_audio(utterances, self.done.output, save=False, threads=threads, reporter=self.reporter)
        self.done.rejected += measured.rejected.values()
        found, seconds = [], []
        for i, length in enumerate(measured.lengths.tolist()):
            if i not in measured.rejected:
                found.append(utterances[i])
                seconds.append(length / SAMPLE_RATE)
        return found, seconds

    def _transcribe(self, utterances: Sequence[Utterance], reader: AudioReader) -> None:
        """Transcribe the batch that `reader` reads next, and append its texts to the file."""
        inputs = []
        for utterance, read in zip(utterances, reader.read(utterances), strict=True):
            if isinstance(read, AudioError):
                self.done.rejected.append(Rejection(utterance, read.reason, str(read)))
            else:
                inputs.append((utterance, read))
        found = self.recognizer.recognize([decoded.samples for _, decoded in inputs])
        transcripts = []
        for (utterance, decoded), one in zip(inputs, found, strict=True):
            seconds = len(decoded.samples) / SAMPLE_RATE
            if one is None:
                detail = f"{seconds:.1f} s of audio do not fit into memory: cut it by start and end"
                self.done.rejected.append(Rejection(utterance, "out_of_memory", detail))
                continue
            self.done.audio_seconds += seconds
            name, source = utterance.utterance_id, source_of(utterance, decoded.state).json_text()
            transcripts.append(Transcript(name, one.text, one.truncated, decoded.sha256, source, self.model))
        append_transcripts(self.done.output, transcripts)
        for transcript in transcripts:
            self._add(transcript)

    def _add(self, transcript: Transcript) -> None:
        self.done.texts[transcript.utterance_id] = transcript.text
        if transcript.truncated:
            self.done.truncated.append(transcript.utterance_id)


def _check_output(data: Path, output: Path | None) -> Path:
    """Return the output folder; UsageError if it is missing, or is the data folder."""
    if output is None:
        raise UsageError("--output must name the folder for the new manifests")
    if output.resolve() == data.resolve():
        raise UsageError(f"--output {output} is the data folder, whose manifests would be replaced; give another")
    return output


def _refuse_key(manifests: Manifests) -> None:
    """Raise InputError if an utterance has the key of the new transcripts already."""
    having = [utterance for utterance in manifests.all_utterances() if ASR_KEY in utterance.extra]
    if having:
        places = ", ".join(f"{one.file}:{one.line}" for one in having[:MAX_NAMED])
        more = ", ..." if len(having) > MAX_NAMED else ""
        raise InputError(
            f"the manifests must not have the key {ASR_KEY}, found in {len(having)} lines: {places}{more}; "
            "rename it, or transcribe the manifests that it was added to"
        )


def _begin(data: Path, output: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Write the configuration of a new transcription; UsageError if the folder holds another one.

    The record of looks at test is copied: these are the same utterances.
    """
    file = output / TRANSCRIPTION_FILE
    document = {"schema": 1, "config": config}
    if file.is_file():
        existing = read_object(file, "a transcription").get("config")
        require_same(output, "transcription", existing if isinstance(existing, dict) else {}, config)
        return document
    write_json(file, document)
    if (data / LEDGER_FILE).is_file():
        write_atomically(output / LEDGER_FILE, (data / LEDGER_FILE).read_bytes())
    return document


def _write_rejected(output: Path, rejected: Sequence[Rejection]) -> None:
    """Write rejected.jsonl, or remove that of an earlier call if nothing is rejected now."""
    file = output / REJECTED_FILE
    if rejected:
        write_jsonl(file, [each.entry.as_json() for each in rejected])
    else:
        file.unlink(missing_ok=True)
