"""The data of a run: what it was trained on, and what it must not be scored on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from features.config import SplitName
from features.errors import InputError, UsageError
from features.extraction.encoder_input import transcript_of
from features.manifests.folds import Folds, read_fold, read_folds
from features.manifests.manifest import Utterance, read_manifests
from features.progress import Reporter
from features.regular_files import read_regular
from features.store.index import features_folder
from mervn.config import EvaluateOptions, FinetuneOptions
from mervn.run_folder import RunConfig

Given = TypeVar("Given", EvaluateOptions, FinetuneOptions)
BEFORE: Mapping[str, tuple[SplitName, ...]] = {"train": (), "valid": ("train",), "test": ("train", "valid")}
"""By split, the splits of the run's own data whose utterances it must not have."""


def with_own_data(config: RunConfig, options: Given) -> Given:
    """Return options whose `data`, `features_dir` and `audio_root` are None where they are the run's own.

    `data` that names the folder of the run is no other data. What mervn.toml sets is the default of commands that
    read a corpus: the data of a run have priority, as long as their folder exists.
    """
    recorded, data = Path(config.options["data"]), options.data
    is_default = "data" not in options.given and recorded.is_dir()
    if data is not None and not is_default and data.resolve() != recorded:
        return options
    unset = ["data"]
    if "audio_root" not in options.given:
        unset.append("audio_root")
    stores = config.options.get("features_dir")
    if "features_dir" not in options.given and features_folder(Path(stores) if stores else None, recorded).is_dir():
        unset.append("features_dir")
    return options.model_copy(update=dict.fromkeys(unset))


def folds_of(config: RunConfig, options: EvaluateOptions) -> Folds | None:
    """Return the folds of a run if the manifests that it was trained on are in the data of the options; else None.

    InputError if the file has changed since the training.
    """
    if config.options.get("fold") is None:
        return None
    path = Path(config.options["fold_file"])
    if options.data is not None:
        if not has_same_manifests(config, options.data):
            return None
        beside = options.data / path.name  # the folder may have been moved or copied
        path = path if not beside.is_file() or _has_folds(config, path) else beside
    folds = read_folds(path)
    if folds.sha256 != config.inputs["folds"]["sha256"]:
        raise InputError(f"{folds.path} must hold the folds that this run was trained on, but it has changed since")
    return folds


def _has_folds(config: RunConfig, path: Path) -> bool:
    """Tell whether a file holds the folds of a run."""
    return path.is_file() and _sha256(path) == config.inputs["folds"]["sha256"]


def has_same_manifests(config: RunConfig, data: Path) -> bool:
    """Tell whether a folder holds all manifests that a run was trained on, unchanged."""
    recorded = config.inputs.get("manifests")
    if not isinstance(recorded, dict) or not recorded:
        return False
    try:
        return all(_sha256(data / f"{name}.jsonl") == sha256 for name, sha256 in recorded.items())
    except OSError:
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_regular(path)).hexdigest()


def refuse_seen(
    run: Path,
    config: RunConfig,
    options: EvaluateOptions,
    utterances: Sequence[Utterance],
    reporter: Reporter,
) -> None:
    """Raise InputError if utterances of other data, to be scored as valid or test, are those of a run's training.

    They are if train (or valid, for test) has the same segment of a file, or the same id with the same transcript.
    Copies under other names are not found.
    """
    before = BEFORE[options.split]
    if options.data is None or not before:
        return
    try:
        known = trained_on(config, options, before, reporter)
    except (InputError, UsageError) as error:
        reporter.say(f"warning: {options.data} cannot be compared with the data that {run} was trained on: {error}")
        return
    seen = set[Any]().union(*map(_keys, known))
    found = [one for one in utterances if not seen.isdisjoint(_keys(one))]
    if found:
        raise InputError(
            f"{run} was trained on {' and '.join(before)} of {config.options['data']}, which hold {len(found)} of the "
            f"{len(utterances)} utterances of {options.split} in {options.data}, such as {found[0].utterance_id!r}: "
            "a score of them says nothing about new speech. Leave out --data to score the run's own split, or remove "
            "them from the manifest"
        )


def trained_ids(run: Path, config: RunConfig, options: EvaluateOptions, reporter: Reporter) -> frozenset[str] | None:
    """Return the ids of train and valid of a run; None, after a warning, if they have changed since the training."""
    try:
        return frozenset(one.utterance_id for one in trained_on(config, options, BEFORE["test"], reporter))
    except (InputError, UsageError) as error:
        reporter.say(f"warning: what {run} was trained on cannot be told from what its encoders have seen: {error}")
        return None


def trained_on(
    config: RunConfig, options: EvaluateOptions, splits: tuple[SplitName, ...], reporter: Reporter
) -> list[Utterance]:
    """Return the utterances of some splits of a run, from a copy that the options name, or from its folder.

    InputError if both have changed since the training.
    """
    data, root = Path(config.options["data"]), config.options.get("audio_root")
    if options.data is not None and has_same_manifests(config, options.data):
        data, root = options.data, options.audio_root or root  # as the scored utterances are read
    elif not has_same_manifests(config, data):
        raise InputError(f"the manifests in {config.options['data']} are missing, or have changed since")
    audio_root = Path(root) if root else None
    folds = folds_of(config, options.model_copy(update={"data": data}))
    if folds is not None:
        read, _ = read_fold(data, folds, int(config.options["fold"]), splits, audio_root, str, reporter)
        return [one for of_split in read.values() for one in of_split]
    manifests = read_manifests(
        data, splits, audio_root=audio_root, check_audio=False, require_emotion=False, reporter=reporter
    )
    return list(manifests.all_utterances())


def _keys(utterance: Utterance) -> set[Any]:
    """Return what identifies an utterance: its segment, and its id with its transcript."""
    path = _real_path(utterance.audio_path)
    keys: set[Any] = {(path, utterance.start, utterance.end, utterance.channel)}
    transcript = transcript_of(utterance)
    if transcript:
        keys.add((utterance.utterance_id, transcript))
    return keys


@cache
def _real_path(path: Path) -> str:
    return os.path.realpath(path)
