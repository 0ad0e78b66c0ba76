"""`mervn predict`: the emotion of files, utterances and segments of recordings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.audio.segment import AudioError
from features.counts import counted
from features.cpu_threads import set_threads
from features.durations import duration
from features.errors import UsageError
from features.extraction.unit_reader import default_workers
from features.progress import SILENT, Reporter
from features.signals import check_interrupted, interruptible
from mervn.use.automatic_text import Transcriber
from mervn.use.clips import Clip
from mervn.use.inputs import Inputs, read_inputs
from mervn.use.label_view import LabelView
from mervn.use.predict_options import PredictOptions
from mervn.use.result_files import Prediction, write_results
from mervn.use.run_model import RunModel, open_run_model
from mervn.use.saved_blocks import ClipResult, ContentKeys, SavedBlocks, state_path
from mervn.use.scoring import NO_SAMPLES, Scorer, plan_blocks

LONG_S = 60.0
"""Duration above which an input is no utterance, which is said."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to predict, and speech recognition if inputs without text get one."""

    model: RunModel
    scorer: Scorer
    transcriber: Transcriber | None

    @property
    def inputs_read(self) -> tuple[str, ...]:
        """The modalities that are read: those of the model, and audio for speech recognition."""
        modalities = self.model.modalities
        is_added = self.transcriber is not None and "audio" not in modalities
        return (*modalities, "audio") if is_added else modalities

    def is_read(self, clip: Clip) -> bool:
        """Tell whether the audio of a clip is read, by the model or by speech recognition."""
        return "audio" in self.model.modalities or (self.transcriber is not None and self.transcriber.lacks_text(clip))

    def identity(self) -> dict[str, Any]:
        """Return everything besides the inputs that changes the results on the labels of the model."""
        found: dict[str, Any] = {
            "model": self.model.weights_sha256,
            "labels": list(self.model.labels),
            "device": self.model.device.type,
            "batch_seconds": self.scorer.batch_budget["audio"],
        }
        return found if self.transcriber is None else {**found, "transcribe": self.transcriber.identity()}


@dataclass(frozen=True)
class Predictions:
    """The results of one call of `mervn predict`."""

    model: RunModel
    labels: tuple[str, ...]
    """The labels of the results."""
    predictions: Sequence[Prediction]
    """One per clip, in the order of the inputs."""
    page: Path | None = None
    """The page of --explain."""

    @property
    def failed(self) -> list[Prediction]:
        """The clips whose audio cannot be used."""
        return [one for one in self.predictions if one.fault is not None]


def predict(run: Path, paths: Sequence[Path], options: PredictOptions, reporter: Reporter = SILENT) -> Predictions:
    """Predict the emotion of each input with a run or a bundle.

    With an output, finished blocks are kept beside it: the same call resumes after an interruption,
    and computes again what failed or whose audio or text has changed. Audio that cannot be used is
    part of the results. Raises UsageError for inputs or options that do not fit the model, before
    any work, and the errors of `open_run_model` and `read_inputs`.
    """
    set_threads(options.threads)
    _check_output(options)
    loaded = _load(run, options)
    view = LabelView(loaded.model.labels, options.map, options.labels)
    with interruptible(), closing(loaded.scorer):
        inputs = read_inputs(paths, options, loaded.inputs_read, reporter)
        _say_unusual(loaded, inputs, reporter)
        results = _score(loaded, inputs, options, reporter)
        predictions = []
        for clip, seconds, result in zip(inputs.clips, inputs.seconds, results, strict=True):
            scores = None if result.probabilities is None else view.apply(result.probabilities)
            shown = clip if result.text is None else replace(clip, text=result.text)
            predictions.append(Prediction(shown, seconds, scores, result.fault))
        found = Predictions(loaded.model, view.labels, predictions)
        if options.output is None:
            return found
        write_results(options.output, view.labels, predictions)
        if not options.explain:
            return found
        from mervn.use.explanation_page import write_page

        return replace(found, page=write_page(found, loaded.scorer, options.output))


def _load(run: Path, options: PredictOptions) -> Loaded:
    """Load the model of a run and, with --transcribe, that of speech recognition."""
    model = open_run_model(run, options.device, features_dir=options.features_dir, trust_code=options.trust_code)
    workers = default_workers(model.device) if options.workers is None else options.workers
    scorer = Scorer(model, options.batch_seconds, workers)
    if options.transcribe is None:
        return Loaded(model, scorer, None)
    if "text" not in model.modalities:
        if "transcribe" in options.given:
            raise UsageError(f"--transcribe has no effect, because {run} reads no text; leave it out")
        return Loaded(model, scorer, None)
    return Loaded(model, scorer, Transcriber(options.transcribe, options.device))


def _check_output(options: PredictOptions) -> None:
    """Raise UsageError unless the output can be written without a loss.

    It and the page of --explain must not exist, or be results of this command, or be replaced by
    `force`. They are never a folder or one of the inputs.
    """
    output = options.output
    if output is None:
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output must be in a folder that can be created, found {output}: {error}") from error
    for name in ("manifest", "segments"):
        source = getattr(options, name)
        if source is not None and source.resolve() == output.resolve():
            raise UsageError(f"--output must not be the file of --{name}, found {output} for both")
    is_result = options.force or state_path(output).is_file()
    _refuse_existing(output, is_result)
    if options.explain:
        _refuse_existing(output.with_suffix(".html"), options.force or (is_result and _is_page(output)))


def _refuse_existing(path: Path, is_result: bool) -> None:
    """Raise UsageError for a folder, and for an existing file that is no result of this command."""
    if path.is_dir() or (path.exists() and not is_result):
        raise UsageError(f"{path} exists and was not written by mervn predict; choose another --output, or --force")


def _is_page(output: Path) -> bool:
    """Tell whether the page of an output exists and was written by --explain."""
    from mervn.use.explanation_page import is_page

    try:
        return is_page(output.with_suffix(".html"))
    except OSError:
        return False


def _say_unusual(loaded: Loaded, inputs: Inputs, reporter: Reporter) -> None:
    """Report how many clips lack a modality that the model reads, or are too long for an utterance."""
    modalities = loaded.model.modalities
    lacking = sum(not (clip.text or "").strip() for clip in inputs.clips)
    if "text" in modalities and lacking and loaded.transcriber is None:
        reporter.say(f"{lacking} of {len(inputs.clips)} inputs have no text: they are predicted without a transcript")
    long = sum(seconds > LONG_S for seconds in inputs.seconds)
    if long:
        reporter.say(
            f"{long} of {len(inputs.clips)} inputs are longer than {LONG_S:.0f} s: heads are trained on utterances; "
            "cut recordings with --window, --segments or --vad"
        )
    if "audio" in modalities and any(clip.audio is None for clip in inputs.clips):
        reporter.say("the input has no audio: it is predicted from its text alone")


def _score(model: Loaded, inputs: Inputs, options: PredictOptions, reporter: Reporter) -> list[ClipResult]:
    """Return the result of each clip, from the saved blocks or computed now."""
    if options.output is None:
        return _run(model, inputs, None, reporter)
    saved = SavedBlocks(state_path(options.output), model.identity(), options.force)
    with closing(saved):
        return _run(model, inputs, saved, reporter)


def _run(model: Loaded, inputs: Inputs, saved: SavedBlocks | None, reporter: Reporter) -> list[ClipResult]:
    """Compute the blocks that are not saved, and save each when it is finished."""
    results: list[ClipResult] = []
    resumed, began = 0, time.monotonic()
    blocks = _plan(model, inputs, saved)
    with closing(reporter.progress(len(inputs.clips), 0, "predicting", " clips")) as bar:
        current = next(blocks, None)
        while current is not None:
            check_interrupted()
            upcoming = next(blocks, None)  # its audio is decoded while the current block is scored
            found = current.saved
            if found is None:
                found = _score_block(model, inputs, current.clips)
                if saved is not None:
                    saved.add(current.key, found)
            else:
                resumed += len(found)
            results += found
            bar.update(len(found))
            current = upcoming
    if resumed:
        reporter.say(f"{resumed} of {len(results)} inputs were finished before")
    if resumed < len(results):
        _say_cost(inputs, len(results) - resumed, time.monotonic() - began, reporter)
    return results


@dataclass(frozen=True)
class Block:
    """Clips that are scored together."""

    clips: range
    """Indices of the inputs."""
    key: str
    """Key of its results among the saved ones; empty if none are saved."""
    saved: list[ClipResult] | None
    """Its results, if they were saved."""


def _plan(model: Loaded, inputs: Inputs, saved: SavedBlocks | None) -> Iterator[Block]:
    """Yield the blocks; the audio of one that is not saved is being decoded then."""
    keys = ContentKeys()
    for block in plan_blocks(inputs.seconds, model.scorer.batch_budget["audio"]):
        clips = [inputs.clips[i] for i in block]
        key = "" if saved is None else keys.key(clips)
        found = None if saved is None else saved.find(key, len(clips))
        if found is None:
            read = _to_read(model, inputs, block)
            model.scorer.read_ahead([inputs.clips[i] for i in read], [inputs.seconds[i] for i in read])
        yield Block(block, key, found)


def _to_read(model: Loaded, inputs: Inputs, block: range) -> list[int]:
    """Return the clips of a block whose audio is read: a fault in the header is known before."""
    return [i for i in block if i not in inputs.faults and model.is_read(inputs.clips[i])]


def _score_block(model: Loaded, inputs: Inputs, block: range) -> list[ClipResult]:
    """Transcribe and score the clips of a block; those whose header already tells a fault are not read."""
    faults = {i: fault for i, fault in inputs.faults.items() if i in block}
    samples = {i: NO_SAMPLES for i in block if i not in faults}
    to_read = _to_read(model, inputs, block)
    for i, read in zip(to_read, model.scorer.read([inputs.clips[i] for i in to_read]), strict=True):
        if isinstance(read, AudioError):
            faults[i] = read
            del samples[i]
        else:
            samples[i] = read
    waves, clips = list(samples.values()), [inputs.clips[i] for i in samples]
    if model.transcriber is not None:
        clips = model.transcriber.add_texts(clips, waves)
    found = {i: ClipResult(None, fault) for i, fault in faults.items()}
    for i, clip, scores in zip(samples, clips, model.scorer.score(clips, waves), strict=True):
        text = clip.text if clip is not inputs.clips[i] else None
        if isinstance(scores, AudioError):
            found[i] = ClipResult(None, scores, text)
        else:
            found[i] = ClipResult(scores, None, text)
    return [found[i] for i in block]


def _say_cost(inputs: Inputs, count: int, seconds: float, reporter: Reporter) -> None:
    """Report what the prediction took."""
    audio = sum(inputs.seconds)
    amount = f", {duration(audio)} of audio" if audio else ""
    if count == len(inputs.clips) and audio and seconds:
        amount += f", {audio / seconds:.3g} times as fast as real time"
    reporter.say(f"{counted(count, 'input')} in {duration(seconds)}{amount}")


def count_reasons(failed: Sequence[Prediction]) -> dict[str, int]:
    """Return how many clips failed for each reason, the most frequent first."""
    return dict(Counter(one.fault.reason for one in failed if one.fault is not None).most_common())
