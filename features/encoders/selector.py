"""Encoder selectors: NAME[=MODEL][@LAYER[,LAYER...]], with `+` between two audio streams.

MODEL is a folder, a file, or a hub id with an optional #REVISION (branch, tag or commit).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from features.encoders import ENCODERS, IMPORTED, EncoderSpec
from features.errors import UsageError
from features.suggestions import did_you_mean

FORM = "NAME[=MODEL][@LAYER[,LAYER...]]"
ALIASES = {"dual": "wav2vec2+vggish"}
Layer = int | str
"""The output of a block, by number (0: the input of the first block), or "last" or "all"."""
SECOND_IMPORTED = re.compile(r"(?P<first>[^=]+|.+@[\w,]+)\+(?P<second>[A-Za-z][\w.-]*(?:@[\w,]*)?)")
"""Two streams of which the second has a name that is in no registry. After =MODEL, whose path can
contain a +, only a + behind @LAYERS separates them."""
MEANS = "means"
"""Name in place of a layer, for a store of the time-means of all layers."""


@dataclass(frozen=True)
class Selector:
    """One encoder: a name in the registry, a model and layers (None: the encoder's default)."""

    modality: str
    name: str
    model: str | None = None
    layers: tuple[Layer, ...] | None = None
    """Numbers and "last", or "all" alone."""

    def __str__(self) -> str:
        model = f"={self.model}" if self.model is not None else ""
        layers = f"@{','.join(map(str, self.layers))}" if self.layers else ""
        return f"{self.name}{model}{layers}"

    @property
    def spec(self) -> EncoderSpec:
        """The registry's entry; IMPORTED for a name that is not in the registry."""
        return ENCODERS[self.modality].get(self.name, IMPORTED)

    @property
    def is_imported(self) -> bool:
        """True if it names features that a user imported: there is no encoder."""
        return self.spec is IMPORTED

    @property
    def flag(self) -> str:
        """The command-line option with this selector, for messages."""
        return f"--{self.modality}-encoder {self}"


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of encoders besides their selectors; None means the encoder's default."""

    segmenter: str | None = None
    """pyvi, underthesea, vncorenlp or none."""
    tone_style: str | None = None
    """keep, old or new."""
    whisper_mode: str | None = None
    """30s or trimmed."""

    def only(self, supported: Sequence[str]) -> EncoderSettings:
        """Return these settings without those that an encoder does not support."""
        return EncoderSettings(**{name: getattr(self, name) for name in supported})

    def check(self, selectors: Sequence[Selector]) -> None:
        """Raise UsageError for a setting that none of these encoders supports."""
        for field in fields(self):
            supported = any(field.name in selector.spec.settings for selector in selectors)
            if getattr(self, field.name) is not None and not supported:
                flag = f"--{field.name.replace('_', '-')}"
                raise UsageError(f"{flag} has no effect on {', '.join(map(str, selectors))}: leave it out")


DEFAULT_SETTINGS = EncoderSettings()


def short_model_name(model: str) -> str:
    """Return the last part of a hub id, folder or file of weights, without suffix and #revision."""
    path = Path(model).expanduser()
    if path.exists():
        name = path.resolve().name
    else:
        name = model.partition("#")[0].rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"\.(pth|pt|safetensors)$", "", name)


def expand_layers(layers: tuple[Layer, ...], num_layers: int) -> tuple[Layer, ...]:
    """Return the layers, with "all" expanded to 0..N."""
    return tuple(range(num_layers + 1)) if layers == ("all",) else layers


def parse_selectors(text: str, modality: str, *, imported: bool = False) -> list[Selector]:
    """Parse one selector, or for audio two with `+` between them.

    `dual` is an alias of wav2vec2+vggish. See `parse_selector` for `imported`.
    """
    # a + within a path does not separate selectors
    names = "|".join(map(re.escape, ENCODERS[modality]))
    parts = re.split(rf"\+(?=(?:{names})(?:[=@+]|$))", ALIASES.get(text.strip(), text.strip()))
    last = SECOND_IMPORTED.fullmatch(parts[-1])
    if imported and last is not None:
        parts[-1:] = [last["first"], last["second"]]
    if modality == "text" and len(parts) > 1:
        raise UsageError(f"--text-encoder takes one encoder, found {text!r}")
    if len(parts) > 2:
        raise UsageError(f"--{modality}-encoder takes at most two streams joined by +, found {text!r}")
    selectors = [parse_selector(part, modality, imported=imported) for part in parts]
    if len(selectors) == 2 and selectors[0] == selectors[1]:
        raise UsageError(f"--{modality}-encoder: the two streams must differ, found {text!r}")
    return selectors


def parse_selector(text: str, modality: str, *, imported: bool = False) -> Selector:
    """Parse `NAME[=MODEL][@LAYER[,LAYER...]]`; UsageError says what is allowed.

    With `imported`, an unknown name without a model is taken for features that a user imported;
    whether there are any is known when their store is looked for.
    """
    flag = f"--{modality}-encoder"
    match = re.fullmatch(r"(?P<name>[^=@+]+)(?:=(?P<model>.+?))?(?:@(?P<layer>[^@/]*))?", text.strip())
    if match is None:
        raise UsageError(f"{flag} must have the form {FORM}, found {text!r}")
    name, model, layer_text = match["name"], match["model"], match["layer"]
    if name not in ENCODERS[modality] and not (imported and model is None and name not in ALIASES):
        raise unknown_name(name, modality)
    return Selector(modality, name, model, _parse_layers(flag, layer_text) if layer_text is not None else None)


def unknown_name(name: str, modality: str, others: Iterable[str] = ()) -> UsageError:
    """Return the error for a name that is no encoder, and none of the `others`."""
    other = "audio" if modality == "text" else "text"
    known = sorted({*ENCODERS[modality], *others})
    hint = f" ({name} is an encoder for {other}: --{other}-encoder)" if name in ENCODERS[other] else ""
    hint = hint or did_you_mean(name, known)
    return UsageError(f"--{modality}-encoder must name one of {', '.join(known)}, found {name!r}{hint}")


def _parse_layers(flag: str, text: str) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for part in text.split(","):
        if part not in ("last", "all") and not re.fullmatch(r"\d+", part):
            raise UsageError(f"{flag}: the layers after @ must be numbers, 'last' or 'all', found {part!r} in @{text}")
        layers.append(int(part) if part.isdigit() else part)
    if len(set(layers)) < len(layers) or ("all" in layers and len(layers) > 1):
        raise UsageError(f"{flag}: the layers after @ must be different, or 'all' alone, found @{text}")
    return tuple(layers)
