"""Inputs of `mervn predict`: files, folders, manifests, and segments of recordings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from features.audio.segment import AudioError, Channel
from features.errors import InputError, UsageError, name_some
from features.manifests.manifest import Utterance, read_manifests
from features.progress import Reporter
from features.suggestions import did_you_mean
from mervn.unread_options import refuse_unread
from mervn.use.audio_folders import find_audio_files
from mervn.use.clips import Clip
from mervn.use.predict_options import PredictOptions
from mervn.use.segments import Segment, read_segments, windows
from mervn.use.speech import find_speech, open_detector

KEPT_FIELDS = ("utterance_id", "speaker_id")


@dataclass(frozen=True)
class Inputs:
    """The clips to predict, in their order."""

    clips: Sequence[Clip]
    seconds: Sequence[float]
    """Duration of each clip; 0 without audio, and for one that cannot be read."""
    faults: dict[int, AudioError]
    """By index, why the audio of a clip cannot be used, as far as file headers tell."""


def read_inputs(
    paths: Sequence[Path], options: PredictOptions, modalities: Sequence[str], reporter: Reporter
) -> Inputs:
    """Return the clips that paths and options name; paths replace a manifest of mervn.toml.

    Raises UsageError for a path that does not exist, without any input, and for given options that
    these inputs or a model of these modalities do not read. Raises InputError for a folder without
    audio, and for a manifest or list of segments that is not valid. Audio that cannot be read is no
    error here.
    """
    if paths and "manifest" not in options.given:
        options = options.model_copy(update={"manifest": None})
    refuse_unread(_unread_options(paths, options, modalities), options.given)
    clips = _named_clips(paths, options, modalities, reporter)
    reads_audio = "audio" in modalities
    if "text" not in modalities and all(clip.audio is None for clip in clips):
        raise UsageError("the model reads only audio, but no input has any; give audio files, --manifest or --segments")
    if not reads_audio:
        if all(clip.text is None for clip in clips):
            raise UsageError("the model reads only text, but no input has any; give --text, --manifest or --segments")
        return Inputs(clips, [0.0] * len(clips), {})
    if options.vad:
        clips = _speech(clips, options, reporter)
    found: list[Clip] = []
    seconds: list[float] = []
    faults: dict[int, AudioError] = {}
    for clip in clips:
        try:
            length, rate = clip.measure()
            duration = length / rate
            parts = _cut(clip, duration, rate, options) if clip.audio is not None else [clip]
        except AudioError as error:
            faults[len(found)] = error
            parts, duration = [clip], 0.0
        found += parts
        seconds += [_length(part, duration) for part in parts]
    return Inputs(found, seconds, faults)


def _named_clips(
    paths: Sequence[Path], options: PredictOptions, modalities: Sequence[str], reporter: Reporter
) -> list[Clip]:
    """Return one clip per file, utterance or segment, not yet cut into windows or speech."""
    if options.manifest is not None:
        if paths:
            raise UsageError(f"--manifest names the audio files itself; leave out {paths[0]}")
        utterances = _read_manifest(options, reporter)
        if "text" in modalities:
            _check_key(utterances, options)
        return [_from_utterance(one, options) for one in utterances]
    files = _expand(paths)
    channel: Channel = "mix" if options.channel == "mix" else int(options.channel)
    if options.segments is not None:
        return _from_segments(read_segments(options.segments), files, options, channel)
    if options.text is not None:
        if len(files) > 1:
            raise UsageError(f"--text is the transcript of one file, found {len(files)} files")
        audio = files[0] if files else None
        return [Clip(audio, channel=channel, text=options.text, file=str(audio or ""))]
    if not files:
        raise UsageError("an input must be given: audio files or folders, --manifest, --segments or --text")
    return [Clip(path, channel=channel, file=str(path)) for path in files]


def _unread_options(paths: Sequence[Path], options: PredictOptions, modalities: Sequence[str]) -> dict[str, str]:
    """Return the options that these inputs or this model do not read, each with the reason."""
    unread: dict[str, str] = {}
    if options.manifest is not None:
        unread["channel"] = "a manifest names the channels itself"
    else:
        unread["transcript_key"] = "only --manifest has keys"
        if options.segments is None or paths:
            unread["audio_root"] = "only the paths in --manifest, or in --segments without PATHS, are relative to it"
    if "audio" not in modalities:
        unread |= dict.fromkeys(("channel", "window", "hop", "vad"), "the model reads only text")
    if "text" not in modalities:
        unread["transcript_key"] = "the model reads only audio"
        if paths:  # alone, --text is no input for this model, which is said
            unread["text"] = "the model reads only audio"
    return unread


def _expand(paths: Iterable[Path]) -> list[Path]:
    """Return the files of paths and folders, each once, those of a folder sorted by path."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += find_audio_files(path)
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"the audio file or folder {path} does not exist")
    return list(dict.fromkeys(found))


def _read_manifest(options: PredictOptions, reporter: Reporter) -> Sequence[Utterance]:
    """Return the utterances of the manifest; raises the errors of `read_manifests`."""
    path = options.manifest
    if path is None or path.suffix != ".jsonl":
        raise UsageError(f"--manifest must be a .jsonl file, found {path}; for a table, use --segments FILE.csv")
    if not path.is_file():
        raise UsageError(f"--manifest must be a file, but {path} does not exist")
    read = read_manifests(
        path.parent, (path.stem,), audio_root=options.audio_root, require_emotion=False, check_audio=False,
        reporter=reporter,
    )  # fmt: skip
    return read[path.stem]


def _check_key(utterances: Sequence[Utterance], options: PredictOptions) -> None:
    """Raise UsageError if no utterance has the key of --transcript-key."""
    key = options.transcript_key
    if key == "transcript" or any(key in one.extra for one in utterances):
        return
    known = dict.fromkeys(name for one in utterances for name in one.extra)
    raise UsageError(
        f"--transcript-key must be a key of {options.manifest} besides the fields of manifests, found {key!r}"
        + did_you_mean(key, known)
    )


def _from_utterance(utterance: Utterance, options: PredictOptions) -> Clip:
    """Return the clip of a line of a manifest; a missing transcript is an empty one."""
    text = utterance.transcript
    if options.transcript_key != "transcript":
        text = utterance.extra.get(options.transcript_key)
        if text is not None and not isinstance(text, str):
            place = f"{utterance.file}:{utterance.line}"
            raise InputError(f"{place}: {options.transcript_key} must be a string, found {text!r}")
    extra = {name: getattr(utterance, name) for name in KEPT_FIELDS if getattr(utterance, name) is not None}
    extra |= utterance.extra
    return Clip(
        utterance.audio_path, utterance.start, utterance.end, utterance.channel, text or "", utterance.wav_path, extra
    )


def _from_segments(
    segments: Sequence[Segment], files: Sequence[Path], options: PredictOptions, channel: Channel
) -> list[Clip]:
    """Return the clips of a list of segments.

    Recordings are the given files, or else relative to the folder of the list. Segments without a
    channel get `channel`. InputError lists the segments whose recording is not among the files.
    UsageError if the list and --channel both name channels.
    """
    named = next((segment.place for segment in segments if segment.channel is not None), None)
    if named is not None and "channel" in options.given:
        raise UsageError(f"{named} names the channel of the segment itself; leave out --channel {options.channel}")
    by_name: dict[str, set[Path]] = {}
    for path in files:
        for name in {str(path), path.name, path.stem}:
            by_name.setdefault(name, set()).add(path)
    root = options.audio_root or (options.segments or Path()).parent
    clips, unknown = [], []
    for segment in segments:
        if segment.file is None:
            matching = set(files)
        elif files:
            matching = by_name.get(segment.file, set()) or by_name.get(Path(segment.file).name, set())
        else:
            matching = {root / segment.file}
        if len(matching) != 1:
            unknown.append(f"{segment.place} {segment.file or 'without the column file'} ({len(matching)} files)")
            continue
        (path,) = matching
        read = channel if segment.channel is None else segment.channel
        clips.append(Clip(path, segment.start, segment.end, read, segment.text, str(path), segment.extra))
    if unknown:
        raise InputError(f"each segment must be of one of the given files, not so: {name_some(unknown)}")
    return clips


def _speech(clips: Sequence[Clip], options: PredictOptions, reporter: Reporter) -> list[Clip]:
    """Return the speech of each recording; one that cannot be read stays whole, to be reported."""
    detector = open_detector()
    found: list[Clip] = []
    silent = []
    for clip in clips:
        if not isinstance(clip.audio, Path):
            continue
        try:
            parts = find_speech(clip.audio, clip.channel, detector, reporter)
        except AudioError:
            found.append(clip)
            continue
        found += [replace(clip, start=start, end=end) for start, end in parts]
        if not parts:
            silent.append(clip.file)
    if silent:
        reporter.say(f"no speech was found in {len(silent)} of {len(clips)} files: {name_some(silent)}")
    return found


def _cut(clip: Clip, seconds: float, rate: int, options: PredictOptions) -> list[Clip]:
    """Return the windows of a clip of `seconds` at a rate in Hz; the clip itself without --window."""
    if options.window is None:
        return [clip]
    end, hop = clip.start + seconds, options.hop or options.window
    return [replace(clip, start=first, end=last) for first, last in windows(clip.start, end, options.window, hop, rate)]


def _length(part: Clip, seconds: float) -> float:
    """Return the duration of a part of a clip of `seconds`."""
    return seconds if part.end is None else min(seconds, part.end - part.start)
