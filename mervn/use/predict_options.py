"""Options of `mervn predict`. Imports nothing heavy."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, field_validator, model_validator

from features.config import ADVANCED, DeviceOptions, Group
from features.manifests.label_names import normalize_label
from mervn.run_options import TrustOptions

SUFFIXES = (".json", ".jsonl", ".csv")


class PredictOptions(TrustOptions, DeviceOptions):
    """Options of `mervn predict RUN PATH...`."""

    exclusive = (
        *product(("segments", "manifest"), ("window", "hop", "vad")),
        *product(("text",), ("window", "hop", "vad", "segments", "manifest")),
        ("segments", "manifest"),
    )

    text: Annotated[str | None, Group.DATA] = Field(
        None, description="Transcript of the one PATH, or without PATH the input itself."
    )
    manifest: Annotated[Path | None, Group.DATA] = Field(
        None, description="Predict the utterances of a JSONL manifest; emotion is not needed and not read."
    )
    transcript_key: Annotated[str, Group.DATA, ADVANCED] = Field(
        "transcript", description="Key of the manifest that holds the text, such as transcript_asr."
    )
    audio_root: Annotated[Path | None, Group.DATA, ADVANCED] = Field(
        None, description="Folder that paths in a manifest or list of segments are relative to [default: its folder]."
    )
    transcribe: Annotated[str | None, Group.DATA] = Field(
        None, description="Add text to inputs without it by speech recognition: whisper=MODEL, a hub id or folder."
    )
    channel: Annotated[Annotated[str, Field(pattern=r"^(mix|\d{1,3})$")], Group.DATA, ADVANCED] = Field(
        "mix", description="Channel of the audio: 0, 1, ... or mix, the mean of all; manifests have their own."
    )
    window: Annotated[Annotated[float, Field(ge=0.1, allow_inf_nan=False)] | None, Group.DATA] = Field(
        None, description="Cut each recording into windows of this many seconds."
    )
    hop: Annotated[Annotated[float, Field(ge=0.1, allow_inf_nan=False)] | None, Group.DATA] = Field(
        None, description="Seconds from one window to the next [default: --window]."
    )
    segments: Annotated[Path | None, Group.DATA] = Field(
        None, description="Predict these segments: CSV with file, start, end and perhaps transcript, or RTTM."
    )
    vad: Annotated[bool, Group.DATA] = Field(
        False, description="Predict the speech that silero-vad finds; with --window, longer speech in windows."
    )
    features_dir: Annotated[Path | None, Group.ENCODERS, ADVANCED] = Field(
        None, description="Folder of the feature stores of the run, which name its encoders [default: the run's]."
    )
    batch_seconds: Annotated[PositiveFloat | None, Group.ENCODERS, ADVANCED] = Field(
        None, description="Seconds of audio per batch, padding included [default: 8 on CPU, 480 on GPU]."
    )
    workers: Annotated[Annotated[int, Field(ge=0)] | None, Group.GENERAL, ADVANCED] = Field(
        None,
        description="Processes that decode the audio of some minutes, before it is encoded [default: on a GPU the "
        "number of cores less one, at most 8; on a CPU 0].",
    )
    labels: Annotated[tuple[str, ...], Group.OUTPUT] = Field(
        (), description="Choose among these labels only; their probabilities are divided by their sum [default: all]."
    )
    map: Annotated[tuple[str, ...], Group.OUTPUT] = Field(
        (), description="OLD=NEW: labels to rename; probabilities of labels with one new name are added."
    )
    output: Annotated[Path | None, Group.OUTPUT] = Field(
        None, description="Result file, .json, .jsonl or .csv; an interrupted prediction resumes [default: a table]."
    )
    explain: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Also write OUTPUT.html: timeline, waveforms, attention, contribution of each modality."
    )
    force: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Predict everything again, and replace the results of another model or other options."
    )

    @field_validator("labels")
    @classmethod
    def _normalize(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normalize_label(label) for label in labels)

    @field_validator("map")
    @classmethod
    def _check_map(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if entry.count("=") != 1 or not all(part.strip() for part in entry.split("=")):
                raise ValueError(f"entries must be OLD=NEW, not {entry!r}")
        return tuple("=".join(map(normalize_label, entry.split("="))) for entry in entries)

    @field_validator("output")
    @classmethod
    def _check_suffix(cls, output: Path | None) -> Path | None:
        if output is not None and output.suffix not in SUFFIXES:
            raise ValueError(f"the name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        return output

    @model_validator(mode="after")
    def _check_windows(self) -> Any:
        if self.hop is not None and self.window is None:
            raise ValueError("--hop needs --window")
        if self.hop is not None and self.window is not None and self.hop > self.window:
            raise ValueError(f"--hop must be at most --window, else audio is left out, found {self.hop:g}")
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> Any:
        given = [name for name in ("vad", "segments", "manifest") if getattr(self, name)]
        if self.window is not None and not self.vad:
            given.insert(0, "window")
        if len(given) > 1:
            raise ValueError(f"--{given[0]} and --{given[1]} exclude each other: each says what is predicted")
        if self.text is not None and given:
            raise ValueError(f"--text is the transcript of one whole file; it cannot be given with --{given[0]}")
        if self.explain and self.output is None:
            raise ValueError("--explain needs --output FILE; its page is FILE with .html")
        return self
