"""How an encoder is named everywhere: NAME[=MODEL][@LAYER]."""

from __future__ import annotations

import re
from dataclasses import dataclass

from features.encoders import ENCODERS, EncoderSpec
from features.errors import UsageError

FORM = "NAME[=MODEL][@LAYER]"


@dataclass(frozen=True)
class Selector:
    """One encoder: a name of the registry, a model (None: unsaid) and a layer (None: unsaid; "last" or a number)."""

    modality: str
    name: str
    model: str | None = None
    layer: int | str | None = None

    def __str__(self) -> str:
        model = f"={self.model}" if self.model is not None else ""
        return f"{self.name}{model}" + (f"@{self.layer}" if self.layer is not None else "")

    @property
    def spec(self) -> EncoderSpec:
        """The registry's entry."""
        return ENCODERS[self.modality][self.name]

    @property
    def flag(self) -> str:
        """How this selector is given on the command line."""
        return f"--{self.modality}-encoder {self}"


def parse_selector(text: str, modality: str) -> Selector:
    """Read `NAME[=MODEL][@LAYER]`; UsageError says what is allowed instead."""
    flag = f"--{modality}-encoder"
    match = re.fullmatch(r"(?P<name>[^=@+]+)(?:=(?P<model>.+?))?(?:@(?P<layer>[^@/]*))?", text.strip())
    if match is None:
        raise UsageError(f"{flag} must have the form {FORM}, found {text!r}")
    name, model, layer_text = match["name"], match["model"], match["layer"]
    registry = ENCODERS[modality]
    if name not in registry:
        other = "audio" if modality == "text" else "text"
        hint = f" ({name} is an encoder of {other}: --{other}-encoder)" if name in ENCODERS[other] else ""
        raise UsageError(f"{flag} must name one of {', '.join(sorted(registry))}, found {name!r}{hint}")
    layer: int | str | None = None
    if layer_text is not None:
        if layer_text != "last" and not re.fullmatch(r"\d+", layer_text):
            raise UsageError(f"{flag}: the layer after @ must be a number or 'last', found {layer_text!r} in {text!r}")
        layer = "last" if layer_text == "last" else int(layer_text)
    return Selector(modality, name, model, layer)
