"""Checks of features that a user imports, before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from features.audio.resampling import SAMPLE_RATE
from features.audio.segment import AudioError, inspect_segment
from features.errors import InputError, name_some
from features.extraction.encoder_input import audio_source, transcript_of
from features.extraction.feature_files import Array
from features.extraction.import_options import StoreImportOptions
from features.extraction.segment_hashes import SegmentHashes
from features.manifests.manifest import Utterance
from features.progress import Reporter
from features.store.part import DTYPES, StoredUtterance, crc32
from features.text.normalize import text_sha256

MAX_SHOWN = 5
"""Maximum number of faults of one kind in a message."""
MIN_FRAMES, MIN_SECONDS, RELATIVE = 2.0, 0.1, 0.02
"""An utterance may have this many frames more or fewer than its duration times the frame rate: the
maximum of a number of frames, a duration and a fraction. Windows at the ends differ by encoder."""


@dataclass
class Checked:
    """Features that passed all checks, described without their values."""

    inputs: dict[str, StoredUtterance] = field(default_factory=dict)
    """By utterance id what is stored; its values are empty, and are read again to be written."""
    checksums: dict[str, int] = field(default_factory=dict)
    """crc32 of the features in the dtype of the store, by utterance id."""
    dim: int = 0
    vectors: bool = False
    """True if each utterance has one vector (D,) instead of frames (T, D)."""
    store_dtype: str = "fp32"
    sha256: str = ""
    """Hash of all ids, inputs and features."""
    missing: list[str] = field(default_factory=list)
    """Ids of utterances without features."""
    empty: int = 0
    """Number of utterances without transcript, which have no tokens."""


class Faults(dict[str, list[str]]):
    """Faults of features by rule, with the utterances that break it."""

    def add(self, rule: str, found: str) -> None:
        """Add a fault."""
        self.setdefault(rule, []).append(found)

    def raise_if_any(self, source: object) -> None:
        """Raise InputError with the first few faults of each rule."""
        if not self:
            return
        lines = [f"{source} cannot be imported:"]
        for rule, found in self.items():
            lines.append(f"  {rule}, found {name_some(found)}")
        raise InputError("\n".join(lines))


def check_features(
    features: Mapping[str, Array],
    utterances: Sequence[Utterance],
    options: StoreImportOptions,
    source: object,
    reporter: Reporter,
) -> Checked:
    """Check names, shapes, numbers and lengths of the features of all utterances.

    Raises one InputError with all faults. Audio is decoded once, to record from which samples the
    features are: a change of the audio is noticed later.
    """
    faults, checked = Faults(), Checked()
    wanted = [one for one in utterances if one.utterance_id in features]
    checked.missing = [one.utterance_id for one in utterances if one.utterance_id not in features]
    silent = {one.utterance_id for one in utterances if options.modality == "text" and not transcript_of(one)}
    absent = [name for name in checked.missing if name not in silent]
    if absent and (not options.allow_missing or not wanted):
        names = sorted(features.keys() - {one.utterance_id for one in utterances})
        hint = f" (the features of {name_some(names)} have no utterance)" if names else ""
        faults.add(
            f"every utterance must have features, but {len(absent)} have none{hint}; or --allow-missing",
            name_some(absent),
        )
    _check_arrays(features, wanted, options, checked, faults)
    faults.raise_if_any(source)
    kept = [one for one in utterances if one.utterance_id in features or one.utterance_id in silent]
    checked.missing, checked.sha256 = absent, _hash_all(features, kept, options, checked, faults, reporter)
    faults.raise_if_any(source)
    return checked


def _hash_all(
    features: Mapping[str, Array],
    utterances: Sequence[Utterance],
    options: StoreImportOptions,
    checked: Checked,
    faults: Faults,
    reporter: Reporter,
) -> str:
    """Record the input and the checksum of each utterance; return the hash of all features and inputs."""
    digest, in_order = hashlib.sha256(), sorted(utterances, key=lambda one: one.utterance_id)
    inputs = _inputs(in_order, options.modality == "audio")
    with closing(reporter.progress(len(utterances), 0, what="checking features")) as bar, closing(inputs):
        for one, about in inputs:
            bar.update(1)
            name = one.utterance_id
            values = stored_values(features, name, checked)
            if isinstance(about, AudioError):
                faults.add("the audio of each utterance must be readable", str(about))
            elif _is_finite(name, values, checked, faults):
                if options.modality == "audio":
                    _check_duration(about, values, options.hz, faults)
                else:
                    _check_tokens(about, values, checked, faults)
                checked.inputs[name], checked.checksums[name] = about, crc32(values)
                digest.update(f"{len(name)}|{name}|{values.shape}|{about.input_sha256}|".encode())
                digest.update(values.data)
    return digest.hexdigest()


def _inputs(
    utterances: Sequence[Utterance], is_audio: bool
) -> Generator[tuple[Utterance, StoredUtterance | AudioError], None, None]:
    """Yield each utterance with what is stored about it, without values, or why its audio cannot be used."""
    nothing = np.zeros((0, 1), np.float32)
    if not is_audio:
        for one in utterances:
            text = transcript_of(one)
            yield one, StoredUtterance(one.utterance_id, nothing, len(text), text_sha256(text), "{}")
        return
    # the source first: the file can change while it is decoded
    hashes = SegmentHashes().of(((one, audio_source(one)), one) for one in utterances)
    with closing(hashes):
        for (one, source), found in hashes:
            try:
                info = inspect_segment(one.audio_path, one.start, one.end, one.channel)
            except AudioError as error:
                found = error
            if isinstance(found, str):
                yield one, StoredUtterance(one.utterance_id, nothing, info.num_samples, found, source.json_text())
            elif found is not None:
                yield one, found


def stored_values(features: Mapping[str, Array], name: str, checked: Checked) -> Array:
    """Return the features (T, D) of an utterance in the dtype of the store; T = 0 without features."""
    dtype = DTYPES[checked.store_dtype]
    if name not in features:
        return np.zeros((0, checked.dim), dtype)
    with np.errstate(over="ignore"):  # infinite values are reported
        values = np.ascontiguousarray(features[name], dtype)
    return values[None] if values.ndim == 1 else values


def _check_arrays(
    features: Mapping[str, Array],
    utterances: Sequence[Utterance],
    options: StoreImportOptions,
    checked: Checked,
    faults: Faults,
) -> None:
    """Check the shape and dtype of each array, and choose the dtype of the store."""
    shapes: dict[tuple[int, int], list[str]] = {}
    halves = True
    for one in utterances:
        try:
            values = features[one.utterance_id]
        except InputError as error:
            faults.add("arrays must be readable", str(error))
            continue
        if values.dtype.kind != "f" or values.ndim not in (1, 2) or not values.shape[-1]:
            found = f"{one.utterance_id!r} with {values.dtype} {values.shape}"
            faults.add("features must be floating-point arrays (T, D) or (D,) with D of 1 or more", found)
            continue
        halves = halves and values.dtype == np.float16
        shapes.setdefault((values.ndim, values.shape[-1]), []).append(one.utterance_id)
    if len(shapes) > 1:
        kinds = {(1,): "(D,)", (2,): "(T, D)"}
        for (ndim, width), names in shapes.items():
            found = f"{len(names)} {kinds[ndim,]} with D = {width}, such as {names[0]!r}"
            faults.add("all arrays must be (T, D), or all (D,), with one width D", found)
    elif shapes:
        ((ndim, checked.dim),) = shapes
        checked.vectors = ndim == 1
        if options.modality == "audio" and checked.vectors == (options.hz is not None):
            rule = (
                "one vector (D,) per utterance has no --hz" if checked.vectors else "frames (T, D) of audio need --hz"
            )
            faults.add(rule, f"--hz {options.hz:g}" if options.hz is not None else "no --hz")
    checked.store_dtype = options.store_dtype or ("fp16" if halves else "fp32")


def _is_finite(name: str, values: Array, checked: Checked, faults: Faults) -> bool:
    """Tell whether all values are finite; otherwise add a fault."""
    finite = np.isfinite(values)
    for frame, column in np.argwhere(~finite)[:1].tolist():
        rule = f"features must be finite numbers in {checked.store_dtype}"
        faults.add(rule, f"{values[frame, column]} in {name!r} at frame {frame}, column {column}")
    return bool(finite.all())


def _check_tokens(about: StoredUtterance, values: Array, checked: Checked, faults: Faults) -> None:
    """Add a fault unless the features of a transcript have tokens if and only if it has characters."""
    name, is_empty = about.utterance_id, not about.num_inputs
    if len(values) and is_empty:
        faults.add("an utterance without transcript must have no features", f"{len(values)} tokens of {name!r}")
    if not len(values) and not is_empty:
        faults.add("an utterance with a transcript must have features", f"no tokens of {name!r}")
    checked.empty += is_empty


def _check_duration(about: StoredUtterance, values: Array, hz: float | None, faults: Faults) -> None:
    """Add a fault unless the number of frames is the duration times the frame rate."""
    if hz is None:
        return
    seconds = about.num_inputs / SAMPLE_RATE
    expected = seconds * hz
    if abs(len(values) - expected) > max(MIN_FRAMES, MIN_SECONDS * hz, RELATIVE * expected):
        rule = f"the number of frames must be the duration times --hz {hz:g}"
        faults.add(
            rule, f"{len(values)} frames of {about.utterance_id!r} for {seconds:.2f} s ({expected:.0f} expected)"
        )
