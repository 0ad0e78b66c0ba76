"""Custom encoders: a user's class in a Python file, named `FILE.py:Class` in place of an encoder.

The class is a `torch.nn.Module` with two methods: `forward` maps a batch of inputs to features, and
`get_feat_lengths` tells how many frames it returns. Everything else has a default:

- `prepare`: samples (S,) of an utterance at 16 kHz, or the Unicode code points (S,) of a transcript
- `modality`: the one of the option that names the class
- `stride` and `centre`, in samples: from `get_feat_lengths`, and half of the stride
- `dim`: measured
- `forward_layers` and `num_layers`: one layer, "last"
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from features.atomic_files import write_atomically
from features.custom_code import CustomModule, error_location, read_module
from features.encoders.base import Encoder, Lengths, resolve_layers, samples_tensor, weights_sha256
from features.encoders.config_fields import CODE
from features.encoders.hub import find_weights
from features.encoders.model_source import find_source
from features.encoders.pretrained import CONFIG_FILE, RANDOM_NOTE, WEIGHTS_FILE
from features.encoders.selector import EncoderSettings, Layer, Selector, short_model_name
from features.errors import InputError, UsageError
from features.memory import is_out_of_memory
from features.ragged import Ragged
from features.random_streams import Purpose, generator
from features.torch_seed import seeded

SEED = 0
PROBE_SAMPLES = 16_000
MANY_SAMPLES = 3_200_000
"""Samples from which the stride is computed."""


class CustomEncoder(Encoder):
    """Adapter of a user's module to the interface of all encoders."""

    numerics_version: ClassVar[int] = 1

    inner: Any

    def __init__(self, inner: nn.Module, code: CustomModule, selector: Selector) -> None:
        super().__init__()
        self.inner, self.code = inner, code
        self.code_record = {"file": str(code.path.absolute()), "sha256": code.sha256}
        self.name, self.modality = identity_name(code), selector.modality  # type: ignore[misc]
        self.has_layers = callable(getattr(inner, "forward_layers", None))
        self.config: dict[str, Any] = {CODE: code.sha256}
        self.dim = 0  # not known yet
        with self._errors(), torch.inference_mode():
            self.num_layers = int(self.inner.num_layers) if self.has_layers else 1
            self.layers = self._resolve_layers(selector)
            self.dim = int(getattr(inner, "dim", 0) or self._measure_dim())
            if self.modality == "audio":
                self.config |= self._frame_times()

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> CustomEncoder:
        """Execute the file and build the class; UsageError if it cannot be built."""
        if not selector.trusted:
            raise UsageError(f"{selector.flag} is code of a file. Review it, then pass --trust-code")
        code = read_module(selector.name)
        if selector.code_sha256 not in (None, code.sha256):
            raise InputError(f"{code.path} must be the file that the features were extracted with, but it was edited")
        module_class = code.load()
        declared = getattr(module_class, "modality", selector.modality)
        if declared != selector.modality:
            raise UsageError(f"{selector.flag}: {code.name} is an encoder for {declared}: --{declared}-encoder")
        inner, takes_model, is_random = _build(module_class, selector, code)
        encoder = cls(inner.eval(), code, selector)
        encoder.is_random = is_random
        encoder.model_name, encoder.weights_note = "own", f"built by {code.path.name}"
        if is_random:
            encoder.model_name, encoder.weights_note = "random", f"{RANDOM_NOTE}, seed {SEED}"
        if selector.model is None:
            return encoder
        encoder.model_name, encoder.weights_note = short_model_name(selector.model), f"pretrained, {selector.model}"
        if takes_model:  # besides weights, the class may read other files of the model
            source = find_source(selector)
            encoder.config["model"] = source.fingerprint or source.model
        else:
            encoder._load_weights(selector)
        return encoder

    def save(self, folder: Path) -> None:
        """Write the weights, and a copy of the file for people."""
        folder.mkdir(parents=True, exist_ok=True)
        # copies: safetensors refuses tensors that share memory, such as tied embeddings
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.inner.state_dict().items()}
        write_atomically(folder / WEIGHTS_FILE, save(tensors))
        write_atomically(folder / self.code.path.name, self.code.source)
        document = {"encoder": self.name, "weights": self.weights_note, "config": self.config}
        write_atomically(folder / CONFIG_FILE, json.dumps(document, indent=2, sort_keys=True) + "\n")

    def prepare(self, raw: Any) -> Tensor:
        """Return the input (S, ...) of an utterance; InputError if `prepare` of the class fails."""
        if not hasattr(self.inner, "prepare"):
            return samples_tensor(raw) if self.modality == "audio" else torch.tensor(list(map(ord, raw))).long()
        with self._errors():
            prepared = self.inner.prepare(raw)
        if not isinstance(prepared, Tensor) or prepared.ndim == 0:
            raise InputError(f"{self.code.path}: prepare must return a tensor (S, ...), found {prepared!r:.80}")
        return prepared

    def token_texts(self, transcript: str) -> list[str] | None:
        """Return the text of each frame, if the class has this method."""
        if not hasattr(self.inner, "token_texts"):
            return None
        with self._errors():
            return list(self.inner.token_texts(transcript))

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return the numbers of frames; the class is only asked for single integers."""
        if isinstance(lengths, Tensor):
            counts = list(map(self._count_frames, lengths.flatten().tolist()))
            return torch.tensor(counts, device=lengths.device).long().reshape(lengths.shape)
        if isinstance(lengths, np.ndarray):
            return np.array(list(map(self._count_frames, lengths.ravel().tolist())), np.int64).reshape(lengths.shape)
        return self._count_frames(int(lengths))

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode a batch; InputError, with the line of the file, if the class fails."""
        with self._errors():
            outputs = self.inner.forward_layers(inputs) if self.has_layers else [self.inner(inputs)]
        expected = self.num_layers + 1 if self.has_layers else 1
        if not isinstance(outputs, (list, tuple)) or len(outputs) != expected:
            raise InputError(
                f"{self.code.path}: forward_layers must return a list of num_layers + 1 = {expected} Ragged"
            )
        sizes = tuple(map(self._count_frames, inputs.sizes))
        for output in outputs:
            self._check(output, sizes)
        return [outputs[-1] if layer == "last" else outputs[int(layer)] for layer in self.layers]

    def _check(self, output: Any, sizes: tuple[int, ...]) -> None:
        """Raise InputError unless an output has features (sum T, D) of these numbers of frames."""
        if not isinstance(output, Ragged):
            raise InputError(f"{self.code.path}: forward must return a Ragged, found a {type(output).__name__}")
        shape = tuple(output.values.shape)
        if len(shape) != 2 or self.dim not in (0, shape[-1]):
            width = f"D = {self.dim}" if self.dim else "any D"
            raise InputError(f"{self.code.path}: forward must return features (sum T, D) with {width}, found {shape}")
        if output.sizes != sizes:
            raise InputError(
                f"{self.code.path}: get_feat_lengths must be the numbers of frames that forward returns, "
                f"found {sizes[:8]} and {output.sizes[:8]}"
            )

    def _resolve_layers(self, selector: Selector) -> tuple[Layer, ...]:
        if not self.has_layers and selector.layers not in (None, ("last",)):
            raise UsageError(
                f"{selector.flag}: {self.code.name} has one layer, 'last'; "
                "for more, give it num_layers and forward_layers"
            )
        return resolve_layers(selector, self.num_layers)

    def _count_frames(self, length: int) -> int:
        with self._errors():
            return int(self.inner.get_feat_lengths(length)) if length else 0

    def _measure_dim(self) -> int:
        noise = generator(Purpose.ENCODER_INPUT).standard_normal(PROBE_SAMPLES).astype(np.float32)
        prepared = self.prepare(0.1 * noise if self.modality == "audio" else "hôm nay trời đẹp")
        return int(self.forward_layers(Ragged.from_sequences([prepared]))[0].values.shape[-1])

    def _frame_times(self) -> dict[str, float]:
        """Return the hop between frames and the centre of the first one, in samples at 16 kHz."""
        more = self._count_frames(2 * MANY_SAMPLES) - self._count_frames(MANY_SAMPLES)
        stride = int(getattr(self.inner, "stride", 0) or round(MANY_SAMPLES / max(1, more)))
        return {"stride": stride, "centre": float(getattr(self.inner, "centre", stride / 2))}

    def _load_weights(self, selector: Selector) -> None:
        """Load the file of weights that a selector names, or the only one in its folder."""
        path = Path(str(selector.model)).expanduser()
        names = find_weights(path) if path.is_dir() else []
        if path.is_dir() and len(names) == 1:
            path = path / names[0]
        try:
            self.inner.load_state_dict(load_file(path), strict=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"{selector.flag}: {path} must hold the weights of {self.code.name} as safetensors, found: {error}; "
                "a class that loads its own model has an argument `model`"
            ) from error
        config = path.parent / CONFIG_FILE
        note = str(json.loads(config.read_text("utf-8")).get("weights", "")) if config.is_file() else ""
        if note.startswith(RANDOM_NOTE):  # the copy of random weights that a store keeps
            self.weights_note, self.model_name, self.is_random = note, "random", True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn an error of the user's code into an InputError that names its line."""
        with located_errors(self.code):
            yield


@contextmanager
def located_errors(code: CustomModule) -> Iterator[None]:
    """Turn an error of custom code into an InputError that names its line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or is_out_of_memory(error):  # such a batch is halved
            raise
        raise InputError(f"{error_location(error, code.path)}: {type(error).__name__}: {error}") from error


def identity_name(code: CustomModule) -> str:
    """Return the name in the identity of a store: `FILE.py:Class` without folders."""
    return f"{code.path.name}:{code.name}"


def absolute_name(selector: Selector) -> str:
    """Return the name of a selector, with an absolute path if it is a custom encoder."""
    if not selector.is_custom:
        return selector.name
    code = read_module(selector.name)
    return replace(code, path=code.path.absolute()).reference


def _build(module_class: type[nn.Module], selector: Selector, code: CustomModule) -> tuple[nn.Module, bool, bool]:
    """Build the module; tell whether it takes a model, and whether its weights are random.

    They are if another seed gives others.
    """
    parameter = inspect.signature(module_class).parameters.get("model")
    if parameter is not None and parameter.default is parameter.empty and selector.model is None:
        raise UsageError(f"{selector.flag}: {code.name} needs a model: {selector.name}=MODEL")
    takes_model = parameter is not None and selector.model is not None
    make: Callable[..., nn.Module] = module_class
    arguments = {"model": selector.model} if takes_model else {}
    with located_errors(code):
        with seeded(torch.device("cpu"), SEED):
            before = torch.get_rng_state()
            inner = make(**arguments)
            drew = not torch.equal(torch.get_rng_state(), before)
        if not drew or selector.model is not None:
            return inner, takes_model, False
        with seeded(torch.device("cpu"), SEED + 1):
            other = make()
    return inner, takes_model, weights_sha256(inner) != weights_sha256(other)
