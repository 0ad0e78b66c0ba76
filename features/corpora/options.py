"""Options of `mervn import`; imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.config import ADVANCED, Group, Options


class ImportOptions(Options):
    """Options of `mervn import`."""

    output: Annotated[Path, Group.OUTPUT] = Field(
        Path("data"), description="Folder for the manifests; it must be missing or empty."
    )
    protocol: Annotated[Literal["official", "groups"] | None, Group.DATA] = Field(
        None,
        description="official: the splits or folds of the corpus. groups: folds without a common speaker "
        "(or session, film) [default: official if the corpus has it, else groups].",
    )
    folds: Annotated[int | None, Group.DATA] = Field(
        None, ge=3, description="Number of folds of --protocol groups [default: 5]."
    )
    merge_labels: Annotated[bool | None, Group.DATA] = Field(
        None,
        description="Merge labels of the corpus that have the same meaning, such as joyful and happy, or keep "
        "them [default: stop if there are any].",
    )
    audio_root: Annotated[Path | None, Group.DATA] = Field(
        None,
        description="Folder that audio paths are relative to (csv, hf, vnemos, emobox) [default: the folder of the "
        "file that names them; for emobox, that of EmoBox].",
    )
    speaker_pattern: Annotated[str | None, Group.DATA] = Field(
        None, description="Regular expression with one group that finds the speaker in an utterance id."
    )
    id_column: Annotated[str | None, Group.DATA] = Field(None, description="Column of the utterance ids (csv, hf).")
    audio_column: Annotated[str | None, Group.DATA] = Field(None, description="Column of the audio (csv, hf).")
    label_column: Annotated[str | None, Group.DATA] = Field(None, description="Column of the labels (csv, hf).")
    speaker_column: Annotated[str | None, Group.DATA] = Field(None, description="Column of the speakers (csv, hf).")
    transcript_column: Annotated[str | None, Group.DATA] = Field(
        None, description="Column of the transcripts (csv, hf)."
    )
    split_column: Annotated[str | None, Group.DATA] = Field(None, description="Column of the splits (csv, hf).")
    group_column: Annotated[str | None, Group.DATA] = Field(
        None, description="Column of the groups that must not be in two splits (csv, hf) [default: the speakers]."
    )
    start_column: Annotated[str | None, Group.DATA, ADVANCED] = Field(
        None, description="Column of the start in seconds (csv, hf)."
    )
    end_column: Annotated[str | None, Group.DATA, ADVANCED] = Field(
        None, description="Column of the end in seconds (csv, hf)."
    )
    channel_column: Annotated[str | None, Group.DATA, ADVANCED] = Field(
        None, description="Column of the channel, 0, 1, ... or mix (csv, hf)."
    )
    delimiter: Annotated[str | None, Group.DATA, ADVANCED] = Field(
        None, description="Delimiter of the table (csv) [default: the only one that fits every line]."
    )
    corpus: Annotated[Literal["visec", "lsvsc", "cameo"] | None, Group.DATA] = Field(
        None, description="Corpus in the Parquet files, for its known faults (hf)."
    )
    subset: Annotated[tuple[str, ...], Group.DATA] = Field(
        (), description="Import only these files of the data set, by the name before -00000-of-... (hf)."
    )
    classes: Annotated[Literal["4", "all"] | None, Group.DATA] = Field(
        None, description="4: angry, happy with excited, neutral, sad; or all labels (iemocap)."
    )
    language: Annotated[Literal["chinese", "english", "all"] | None, Group.DATA] = Field(
        None, description="Speakers of one language, or all (esd)."
    )
    vocal: Annotated[Literal["speech", "song", "all"] | None, Group.DATA] = Field(
        None, description="Speech, song, or all (ravdess) [default: speech]."
    )
    test_set: Annotated[Literal["Test1", "Test2"] | None, Group.DATA] = Field(
        None, description="The test set that becomes test.jsonl (msp-podcast) [default: Test1]."
    )

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        if self.speaker_pattern is None:
            return self
        try:
            groups = re.compile(self.speaker_pattern).groups
        except re.error as error:
            raise ValueError(f"--speaker-pattern must be a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"--speaker-pattern must have one group in parentheses, found {groups}")
        return self

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        if self.folds is not None and self.protocol == "official":
            raise ValueError("--folds has no effect on --protocol official")
        return self

    def find_speaker(self, utterance_id: str) -> str | None:
        """Return the speaker that the pattern finds in an id; None without pattern or match."""
        found = re.search(self.speaker_pattern, utterance_id) if self.speaker_pattern else None
        return found[1] if found else None
