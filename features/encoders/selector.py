"""Encoder selectors: NAME[=MODEL][@LAYER[,LAYER...]], with `+` between two audio streams.

MODEL is a folder, a file, or a hub id with an optional #REVISION (branch, tag or commit).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from features.config import is_custom_module
from features.encoders import CUSTOM_ENCODER, ENCODERS, IMPORTED, EncoderSpec
from features.errors import UsageError
from features.suggestions import did_you_mean

FORM = "NAME[=MODEL][@LAYER[,LAYER...]]"
ALIASES = {"dual": "wav2vec2+vggish"}
CUSTOM_PART = re.compile(r"[^+=@]\.py:[A-Za-z_]\w*(?=[+=@]|$)")
"""A custom encoder anywhere in the text of selectors."""
Layer = int | str
"""The output of a block, by number (0: the input of the first block), or "last" or "all"."""
SECOND_IMPORTED = re.compile(r"(?P<first>[^=]+|.+@[\w,]+)\+(?P<second>[A-Za-z][\w.-]*(?:@[\w,]*)?)")
"""Two streams of which the second has a name that is in no registry. After =MODEL, whose path can
contain a +, only a + behind @LAYERS separates them."""
MEANS = "means"
"""Name in place of a layer, for a store of the time-means of all layers."""


@dataclass(frozen=True)
class Selector:
    """One encoder: its name, a model and layers (None: the encoder's default)."""

    modality: str
    name: str
    """A name in the registry, or FILE.py:Class for a custom encoder."""
    model: str | None = None
    layers: tuple[Layer, ...] | None = None
    """Numbers and "last", or "all" alone."""
    trusted: bool = field(default=True, compare=False)
    """Whether the code of a custom encoder may run: a user or a grid with --trust-code named it."""
    code_sha256: str | None = field(default=None, compare=False)
    """Hash that the file of a custom encoder must have; None for any."""
    option: str | None = field(default=None, compare=False)
    """Command-line option that it was given with; None for --audio-encoder or --text-encoder."""

    def __str__(self) -> str:
        model = f"={self.model}" if self.model is not None else ""
        layers = f"@{','.join(map(str, self.layers))}" if self.layers else ""
        return f"{self.name}{model}{layers}"

    @property
    def spec(self) -> EncoderSpec:
        """The registry's entry, CUSTOM_ENCODER, or else IMPORTED."""
        if self.is_custom:
            return CUSTOM_ENCODER
        return ENCODERS[self.modality].get(self.name, IMPORTED)

    @property
    def is_imported(self) -> bool:
        """True if it names features that a user imported: there is no encoder."""
        return self.spec is IMPORTED

    @property
    def is_custom(self) -> bool:
        """True if the encoder is a class in a file of the user."""
        return is_custom_module(self.name)

    @property
    def option_name(self) -> str:
        """The command-line option that names an encoder of this modality, for messages."""
        return self.option or f"--{self.modality}-encoder"

    @property
    def flag(self) -> str:
        """The command-line option with this selector, for messages."""
        return f"{self.option_name} {self}"


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
        for setting in fields(self):
            supported = any(setting.name in selector.spec.settings for selector in selectors)
            if getattr(self, setting.name) is not None and not supported:
                flag = f"--{setting.name.replace('_', '-')}"
                raise UsageError(f"{flag} has no effect on {', '.join(map(str, selectors))}: leave it out")


DEFAULT_SETTINGS = EncoderSettings()


def names_code(value: str) -> bool:
    """Tell whether an option names code of the user: a custom module, or selectors with one."""
    return is_custom_module(value) or CUSTOM_PART.search(value) is not None


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
    names = "|".join([*map(re.escape, ENCODERS[modality]), r"[^=@+]+\.py:[A-Za-z_]\w*"])
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
    can_be_imported = imported and model is None and name not in ALIASES
    if not (name in ENCODERS[modality] or is_custom_module(name) or can_be_imported):
        raise unknown_name(name, modality)
    return Selector(modality, name, model, _parse_layers(flag, layer_text) if layer_text is not None else None)


def unknown_name(name: str, modality: str, others: Iterable[str] = ()) -> UsageError:
    """Return the error for a name that is no encoder, and none of the `others`."""
    other = "audio" if modality == "text" else "text"
    known = sorted({*ENCODERS[modality], *others})
    hint = f" ({name} is an encoder for {other}: --{other}-encoder)" if name in ENCODERS[other] else ""
    if ".py" in name:
        hint = "; a class of your own is given as FILE.py:Class"
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
