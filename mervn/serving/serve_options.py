"""Options of `mervn serve`. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat

from features.config import ADVANCED, DeviceOptions, Group
from mervn.run_options import TrustOptions


class ServeOptions(TrustOptions, DeviceOptions):
    """Options of `mervn serve RUN`."""

    host: Annotated[Annotated[str, Field(min_length=1)], Group.GENERAL] = Field(
        "127.0.0.1", description="Address to listen on; the default can be reached from this machine only."
    )
    port: Annotated[Annotated[int, Field(ge=0, le=65535)], Group.GENERAL] = Field(
        7860, description="Port to listen on; 0: any free port."
    )
    concurrency: Annotated[Annotated[int, Field(ge=2)], Group.GENERAL] = Field(
        8, description="Requests at a time: one is computed, the others wait, and more are refused."
    )
    max_size_mb: Annotated[PositiveFloat, Group.DATA] = Field(20.0, description="Maximum size of an audio file.")
    max_duration_s: Annotated[PositiveFloat, Group.DATA] = Field(60.0, description="Maximum duration of audio.")
    transcribe: Annotated[Annotated[str, Field(pattern=r"^whisper=.+")] | None, Group.MODEL] = Field(
        None, description="whisper=MODEL: offer transcription with this model [default: text is typed]."
    )
    language: Annotated[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], Group.MODEL, ADVANCED] = Field(
        "vi", description="Language that --transcribe recognises, such as vi or en."
    )
    features_dir: Annotated[Path | None, Group.ENCODERS, ADVANCED] = Field(
        None, description="Folder of the feature stores of the run, which name its encoders [default: the run's]."
    )
