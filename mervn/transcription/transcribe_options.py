"""Options of `mervn transcribe`; imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from features.config import ADVANCED, SPLITS, CorpusOptions, DeviceOptions, Group, SplitName
from features.encoders.selector import Selector
from features.errors import UsageError

MODEL_FORM = re.compile(r"whisper=(?P<model>.+)")
DEFAULT_MODEL = "whisper=vinai/PhoWhisper-small"


class TranscribeOptions(CorpusOptions, DeviceOptions):
    """Options of `mervn transcribe`."""

    output: Annotated[Path | None, Group.OUTPUT] = Field(
        None, description="Folder for the new manifests; repeat the command with it to resume (required)."
    )
    splits: Annotated[tuple[SplitName, ...], Group.DATA] = Field(SPLITS, description="Splits to transcribe.")
    model: Annotated[str, Group.MODEL] = Field(
        DEFAULT_MODEL, description="whisper=MODEL, a Whisper or PhoWhisper checkpoint: hub id or folder."
    )
    language: Annotated[str, Group.MODEL] = Field(
        "vi", description="Code of the language that is spoken, such as vi or en."
    )
    amp: Annotated[Literal["off", "bf16"], Group.MODEL] = Field(
        "off", description="Mixed precision of the model: off (fp32) or bf16."
    )
    batch_size: Annotated[PositiveInt | None, Group.MODEL] = Field(
        None, description="Utterances per batch; changes the speed, not the text [default: 4 on CPU, 32 on GPU]."
    )
    workers: Annotated[NonNegativeInt | None, Group.GENERAL, ADVANCED] = Field(
        None,
        description="Processes that decode audio ahead of the model [default: on a GPU the number of cores less one, "
        "at most 8; on a CPU 0].",
    )


def parse_model(text: str, option: str = "--model") -> Selector:
    """Return the selector of a model for speech recognition, whisper=MODEL; UsageError for another.

    `option` is the command-line option that messages name.
    """
    match = MODEL_FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} must have the form whisper=MODEL, such as {DEFAULT_MODEL}, found {text!r}")
    return Selector("audio", "whisper", match["model"], option=option)
