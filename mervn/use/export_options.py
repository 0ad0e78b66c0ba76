"""Options of `mervn export`; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from features.config import ADVANCED, Group, ThreadOptions
from mervn.run_options import TrustOptions


class ExportOptions(TrustOptions, ThreadOptions):
    """Options of `mervn export RUN`."""

    output: Annotated[Path | None, Group.OUTPUT] = Field(None, description="Folder for the bundle (required).")
    link_encoders: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Name the encoders of the Hugging Face hub by id and commit, instead of copying them."
    )
    onnx: Annotated[bool, Group.OUTPUT] = Field(
        False, description="Also write the head, and encoders with head, as ONNX files that are checked."
    )
    push: Annotated[str | None, Group.OUTPUT] = Field(
        None, description="Upload the bundle to this repository of the Hugging Face hub, such as USER/NAME."
    )
    private: Annotated[bool, Group.OUTPUT] = Field(
        True, description="Create the repository of --push as a private one."
    )
    features_dir: Annotated[Path | None, Group.DATA, ADVANCED] = Field(
        None, description="Feature stores of the run, which name its encoders [default: the run's]."
    )

    @model_validator(mode="after")
    def _check_private(self) -> Any:
        if "private" in self.model_fields_set and self.push is None:
            raise ValueError("--private needs --push")
        return self
