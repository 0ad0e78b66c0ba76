"""Options of `mervn check`; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from features.config import ADVANCED, NOT_IN_HASH, DataOptions, Group


class CheckOptions(DataOptions):
    """Options of `mervn check`."""

    audio: Annotated[bool, Group.DATA] = Field(
        True, description="Decode audio that no check has measured before; --no-audio uses only what is known."
    )
    output: Annotated[Path | None, Group.OUTPUT, NOT_IN_HASH] = Field(
        None, description="Folder for check.json and report.html, a page of the findings [default: none]."
    )
    threads: Annotated[PositiveInt | None, Group.GENERAL, ADVANCED, NOT_IN_HASH] = Field(
        None, description="Number of threads that decode audio [default: one per core]."
    )
