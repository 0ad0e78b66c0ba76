"""Options of `mervn split`; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from features.config import ADVANCED, Group, Options

MIN_FOLDS = 3
"""A fold has a part for train, one for valid and one for test."""
DEFAULT_FRACTION = 0.15
MIN_FRACTION = 0.001
Fraction = Annotated[float, Field(ge=MIN_FRACTION, lt=1)]


class SplitOptions(Options):
    """Options of `mervn split`."""

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("folds", "valid"), ("folds", "test"))
    output: Annotated[Path | None, Group.OUTPUT] = Field(
        None, description="Folder for train.jsonl, valid.jsonl and test.jsonl (required)."
    )
    folds: Annotated[Annotated[int, Field(ge=MIN_FOLDS)] | None, Group.DATA] = Field(
        None, description="Number of cross-validation folds, 3 or more, instead of one split."
    )
    valid: Annotated[Fraction | None, Group.DATA] = Field(
        None, description=f"Fraction of the utterances in valid [default: {DEFAULT_FRACTION}]."
    )
    test: Annotated[Fraction | None, Group.DATA] = Field(
        None, description=f"Fraction of the utterances in test [default: {DEFAULT_FRACTION}]."
    )
    group: Annotated[tuple[str, ...], Group.DATA] = Field(
        ("speaker_id", "recording", "audio"),
        description="Utterances that share one of these stay together: speaker_id, recording (the file), "
        "audio (equal samples), transcript, or any key of the manifest.",
    )
    balance: Annotated[str | None, Group.DATA] = Field(
        None, description="Key of the manifest, such as dialect or gender, to balance besides the emotion."
    )
    audio_root: Annotated[Path | None, Group.DATA, ADVANCED] = Field(
        None, description="Folder that wav_path is relative to [default: the folder of the manifest]."
    )
    force: Annotated[bool, Group.OUTPUT] = Field(False, description="Replace another split in --output.")

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        if self.folds is not None and (self.valid is not None or self.test is not None):
            raise ValueError("--folds excludes --valid and --test: each fold has one part for valid and one for test")
        valid, test = self.fractions
        if 1 - valid - test < MIN_FRACTION:
            raise ValueError(f"--valid and --test must leave utterances for train, found {valid} + {test}")
        if not self.group:
            raise ValueError("--group must name at least one key, found none")
        return self

    @property
    def fractions(self) -> tuple[float, float]:
        """Fractions of valid and test, if there are no folds."""
        valid = DEFAULT_FRACTION if self.valid is None else self.valid
        return valid, DEFAULT_FRACTION if self.test is None else self.test

    @property
    def part_fractions(self) -> list[float]:
        """Wanted fraction of the utterances in each fold, or in train, valid and test."""
        if self.folds is not None:
            return [1 / self.folds] * self.folds
        valid, test = self.fractions
        return [1 - valid - test, valid, test]
