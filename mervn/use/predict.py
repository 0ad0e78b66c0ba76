"""`mervn predict`: the emotion of files, utterances and segments of recordings."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.audio.segment import AudioError
from features.cpu_threads import set_threads
from features.durations import duration
from features.errors import UsageError
from features.progress import SILENT, Reporter
from features.signals import check_interrupted, interruptible
from mervn.use.inputs import Inputs, read_inputs
from mervn.use.label_view import LabelView
from mervn.use.predict_options import PredictOptions
from mervn.use.result_files import Prediction, write_results
from mervn.use.run_model import RunModel, open_run_model
from mervn.use.saved_blocks import ContentKeys, Result, SavedBlocks, state_path
from mervn.use.scoring import Scorer, plan_blocks


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


def predict(
    run: Path, paths: Sequence[Path], options: PredictOptions, reporter: Reporter = SILENT
) -> Predictions:
    """Predict the emotion of each input with a run or a bundle.

    With an output, finished blocks are kept beside it: the same call resumes after an interruption,
    and computes again what failed or whose audio or text has changed. Audio that cannot be used is
    part of the results. Raises UsageError for inputs or options that do not fit the model, before
    any work, and the errors of `open_run_model` and `read_inputs`.
    """
    set_threads(options.threads)
    _refuse_other_output(options)
    model = open_run_model(run, options.device, features_dir=options.features_dir, trust_code=options.trust_code)
    view = LabelView(model.labels, options.map, options.labels)
    with interruptible():
        inputs = read_inputs(paths, options, model.modalities, reporter)
        _say_missing(model, inputs, reporter)
        scorer = Scorer(model, options.batch_seconds)
        results = _score(scorer, inputs, options, reporter)
        predictions = []
        for clip, seconds, result in zip(inputs.clips, inputs.seconds, results, strict=True):
            is_fault = isinstance(result, AudioError)
            predictions.append(
                Prediction(clip, seconds, None, result)
                if isinstance(result, AudioError)
                else Prediction(clip, seconds, view.apply(result))
            )
        found = Predictions(model, view.labels, predictions)
        if options.output is None:
            return found
        write_results(options.output, view.labels, predictions)
        if not options.explain:
            return found
        from mervn.use.explanation_page import write_page

        return Predictions(model, view.labels, predictions, write_page(found, scorer, options.output))


def _refuse_other_output(options: PredictOptions) -> None:
    """Raise UsageError if the output exists and is no result of this command."""
    output = options.output
    if output is None or options.force or not output.exists():
        return
    if output.is_dir() or not state_path(output).is_file():
        raise UsageError(f"{output} exists and was not written by mervn predict; choose another --output, or --force")


def _say_missing(model: RunModel, inputs: Inputs, reporter: Reporter) -> None:
    """Report how many clips lack a modality that the model reads."""
    if "text" in model.modalities:
        lacking = sum(not (clip.text or "").strip() for clip in inputs.clips)
        if lacking:
            reporter.say(
                f"{lacking} of {len(inputs.clips)} inputs have no text: they are predicted like utterances without "
                "transcript"
            )
    if "audio" in model.modalities and any(clip.audio is None for clip in inputs.clips):
        reporter.say("the input has no audio: it is predicted like an utterance whose audio is withheld")


def _score(scorer: Scorer, inputs: Inputs, options: PredictOptions, reporter: Reporter) -> list[Result]:
    """Return the probabilities or the fault of each clip, from the saved blocks or computed now."""
    blocks = plan_blocks(inputs.seconds, scorer.batch_budget["audio"])
    if options.output is None:
        return _run(scorer, inputs, blocks, None, reporter)
    saved = SavedBlocks(state_path(options.output), _identity(scorer), options.force)
    with closing(saved):
        return _run(scorer, inputs, blocks, saved, reporter)


def _identity(scorer: Scorer) -> dict[str, Any]:
    """Return everything besides the inputs that changes the saved probabilities."""
    model = scorer.model
    return {
        "model": model.weights_sha256,
        "labels": list(model.labels),
        "device": model.device.type,
        "batch_seconds": scorer.batch_budget["audio"],
    }


def _run(
    scorer: Scorer, inputs: Inputs, blocks: Sequence[range], saved: SavedBlocks | None, reporter: Reporter
) -> list[Result]:
    """Compute the blocks that are not saved, and save each when it is finished."""
    results: list[Result] = []
    keys, resumed, began = ContentKeys(), 0, time.monotonic()
    with closing(reporter.progress(len(inputs.clips), 0, "predicting", " clips")) as bar:
        for block in blocks:
            check_interrupted()
            clips = [inputs.clips[i] for i in block]
            key = "" if saved is None else keys.key(clips)
            found = None if saved is None else saved.find(key, len(clips))
            if found is None:
                found = score_block(scorer, inputs, block)
                if saved is not None:
                    saved.add(key, found)
            else:
                resumed += len(block)
            results += found
            bar.update(len(block))
    if resumed:
        reporter.say(f"{resumed} of {len(results)} predictions were finished before")
    _say_cost(inputs, len(results) - resumed, time.monotonic() - began, reporter)
    return results


def score_block(scorer: Scorer, inputs: Inputs, block: range) -> list[Result]:
    """Score the clips of a block; those whose header already tells a fault are not read."""
    usable = [i for i in block if i not in inputs.faults]
    scores = dict(zip(usable, scorer.score([inputs.clips[i] for i in usable]), strict=True))
    return [inputs.faults[i] if i in inputs.faults else scores[i] for i in block]


def _say_cost(inputs: Inputs, count: int, seconds: float, reporter: Reporter) -> None:
    """Report what the prediction took."""
    audio = sum(inputs.seconds)
    amount = f", {duration(audio)} of audio" if audio else ""
    if count == len(inputs.clips) and audio and seconds:
        amount += f", {audio / seconds:.0f} times as fast as real time"
    reporter.say(f"{count} predictions in {duration(seconds)}{amount}")


def count_reasons(failed: Sequence[Prediction]) -> dict[str, int]:
    """Return how many clips failed for each reason, the most frequent first."""
    return dict(Counter(one.fault.reason for one in failed if one.fault is not None).most_common())
