"""ONNX files of a model: its head, and its encoders with the head, both compared with the model itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import config as fx_config

from features.atomic_files import write_json
from features.device import exact_fp32
from features.encoders.base import Encoder
from features.encoders.whisper import Whisper
from features.errors import InputError, UsageError
from features.padded import Padded
from features.progress import Reporter
from mervn.data.streams import StreamShape
from mervn.model.head import PaddedHead
from mervn.use.onnx_check import TOLERANCE, check_head, check_model
from mervn.use.onnx_lstm import graph_lstms, translations
from mervn.use.onnx_model import STREAMS, PaddedModel, min_length
from mervn.use.run_encoders import StreamEncoder
from mervn.use.run_model import RunModel

ONNX_FOLDER, DESCRIPTION_FILE = "onnx", "onnx.json"
HEAD_FILE, MODEL_FILE = "head.onnx", "model.onnx"
SCHEMA = 1
MAX_SINGLE_FILE = 1_500_000_000
"""Bytes of weights above which they are written beside the graph: a file of ONNX holds at most 2 GB."""
EXAMPLE_BATCH, EXAMPLE_LENGTHS = 3, {"text": 7, "audio": 11, "audio_2": 5}
"""Sizes of the inputs that the head is traced with. They differ, so that no two axes count as one."""
MAX_REASON = 300
LOGGERS = ("torch.onnx", "torch.export", "torch.__trace", "onnxscript", "onnx_ir")


class NotExportable(Exception):  # noqa: N818
    """Reason why a model has no ONNX file."""


@dataclass(frozen=True)
class OnnxFiles:
    """The ONNX files of a bundle."""

    head_difference: float
    """Maximum difference of a probability of head.onnx from the head."""
    model_difference: float | None
    """The same for model.onnx and the whole model; None without this file."""
    reason: str | None
    """Why there is no model.onnx."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def export_onnx(model: RunModel, bundle: Path, reporter: Reporter) -> OnnxFiles:
    """Write the ONNX files of a model, which is on the CPU, and onnx.json, which describes their inputs.

    head.onnx reads features. model.onnx reads the inputs of the encoders; if they cannot be
    exported, it is left out, and the reason is reported. Raises InputError if the head cannot be
    exported, or if a file does not give the probabilities of the model. Raises UsageError if the
    packages are missing.
    """
    require_packages()
    folder = bundle / ONNX_FOLDER
    folder.mkdir()
    shapes = {name: StreamShape(**shape) for name, shape in model.config.streams.items()}
    try:
        _export(PaddedHead(model.head, Padded.of), head_inputs(shapes), folder / HEAD_FILE)
    except NotExportable as error:
        raise InputError(f"the head of {model.path} cannot be exported to ONNX: {error}") from error
    head_difference = check_head(model.head, shapes, folder / HEAD_FILE)
    model_difference, reason = None, None
    try:
        _refuse(model.encoders)
        _export(PaddedModel(model.head, model.encoders), model_inputs(model.encoders), folder / MODEL_FILE)
        model_difference = check_model(model, folder / MODEL_FILE)
    except NotExportable as error:
        reason = str(error)
        reporter.say(f"only the head is exported to ONNX, without the encoders: {reason}")
    found = OnnxFiles(head_difference, model_difference, reason)
    write_json(folder / DESCRIPTION_FILE, _description(model, shapes, found))
    return found


def require_packages() -> None:
    """Raise UsageError unless the packages that write and run ONNX files are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--onnx needs onnx, onnxscript and onnxruntime ({error}): pip install 'mervn[onnx]'"
        ) from error


def _refuse(encoders: Mapping[str, StreamEncoder]) -> None:
    """Raise NotExportable for encoders whose graph would give other numbers."""
    for name, stream in encoders.items():
        if stream.precision != "fp32":
            raise NotExportable(f"the {name} encoder computed in {stream.precision}, and a graph computes in fp32")


def head_inputs(shapes: Mapping[str, StreamShape]) -> dict[str, Tensor]:
    """Return padded features and lengths to trace a head with, by name of the input."""
    generator, inputs = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for name in in_order(shapes):
        shape, length = shapes[name], EXAMPLE_LENGTHS[name]
        several = [len(shape.layers)] if len(shape.layers) > 1 else []
        inputs[name] = torch.randn(EXAMPLE_BATCH, length, *several, shape.width, generator=generator)
        inputs[f"{name}_lengths"] = torch.tensor([length, 2, 1])
    return inputs


def in_order(streams: Iterable[str]) -> list[str]:
    """Return names of streams in the order of the arguments of a padded model."""
    return [name for name in STREAMS if name in set(streams)]


def model_inputs(encoders: Mapping[str, StreamEncoder]) -> dict[str, Tensor]:
    """Return padded encoder inputs and lengths to trace encoders and head with."""
    inputs: dict[str, Tensor] = {}
    for name in in_order(encoders):
        stream = encoders[name]
        padded = example_input(stream.encoder)
        length = EXAMPLE_LENGTHS[name] if stream.encoder.modality == "text" else padded.shape[1]
        inputs[name] = padded
        inputs[f"{name}_lengths"] = torch.tensor([length, length - 1, length - 2]).clamp(min=1)
    return inputs


def example_input(encoder: Encoder) -> Tensor:
    """Return an input (B, ...) of an encoder."""
    if isinstance(encoder, Whisper):
        return torch.zeros(EXAMPLE_BATCH, encoder.extractor.feature_size, encoder.extractor.nb_max_frames)
    one = encoder.prepare("tôi" if encoder.modality == "text" else np.linspace(-0.5, 0.5, 9_000, dtype=np.float32))
    length = EXAMPLE_LENGTHS["text"] if encoder.modality == "text" else max(one.shape[0], min_length(encoder))
    repeated = one.repeat(-(-length // one.shape[0]), *[1] * (one.ndim - 1))[:length]
    return repeated.expand(EXAMPLE_BATCH, *repeated.shape).contiguous()


def _export(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Write a module as an ONNX file with dynamic batch and time axes; NotExportable says why not."""
    shapes: dict[str, dict[int, str]] = {}
    for name, tensor in inputs.items():
        shapes[name] = {0: "batch"}
        is_whisper_mel = tensor.is_floating_point() and tensor.ndim == 3 and isinstance(module, PaddedModel)
        if tensor.ndim > 1 and not is_whisper_mel:
            shapes[name][1] = f"{name}_length"
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    module.eval()
    try:
        with _quiet(), graph_lstms(module), exact_fp32(), torch.no_grad():
            dynamic = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in shapes.items()}
            program = torch.export.export(module, (), inputs, dynamic_shapes=dynamic, strict=False)
            torch.onnx.export(
                program, (), path, kwargs=inputs, dynamo=True, dynamic_shapes=shapes, output_names=["logits"],
                input_names=list(inputs), external_data=size > MAX_SINGLE_FILE, verbose=False,
                custom_translation_table=translations(),
            )  # fmt: skip
    except Exception as error:  # the exporter wraps whatever happens inside it, in many types
        path.unlink(missing_ok=True)
        raise NotExportable(_reason(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: its warnings, its log, and the lines of Python that each operation came from.

    A file would name the folders of this machine, and be a third larger.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    emits_no_traces = getattr(fx_config, "do_not_emit_stack_traces", False)  # earlier versions of torch lack it
    fx_config.do_not_emit_stack_traces = True
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        fx_config.do_not_emit_stack_traces = emits_no_traces
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return why an export failed: the first line of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    # a layout that cannot be exported says so itself
    return (text if isinstance(error, NotImplementedError) else f"{type(error).__name__}: {text}")[:MAX_REASON]


def _description(model: RunModel, shapes: Mapping[str, StreamShape], found: OnnxFiles) -> dict[str, Any]:
    """Return the content of onnx.json."""
    files: dict[str, Any] = {
        HEAD_FILE: {
            "inputs": {name: _feature_input(shape) for name, shape in shapes.items()},
            "difference": found.head_difference,
        }
    }
    if found.reason is None:
        inputs = {name: _encoder_input(stream.encoder) for name, stream in model.encoders.items()}
        files[MODEL_FILE] = {"inputs": inputs, "difference": found.model_difference}
    return {
        "schema": SCHEMA,
        "labels": list(model.labels),
        "sample_rate": model.sample_rate,
        "tolerance": TOLERANCE,
        "files": files,
        "not_exported": None if found.reason is None else {MODEL_FILE: found.reason},
    }


def _feature_input(shape: StreamShape) -> dict[str, Any]:
    """Return the description of an input of head.onnx."""
    several = [len(shape.layers)] if len(shape.layers) > 1 else []
    return {"kind": "features", "dtype": "float32", "shape": ["batch", "length", *several, shape.width]}


def _encoder_input(encoder: Encoder) -> dict[str, Any]:
    """Return the description of an input of model.onnx."""
    example = example_input(encoder)
    found: dict[str, Any] = {
        "encoder": encoder.name,
        "dtype": str(example.dtype).removeprefix("torch."),
        "shape": ["batch", "length", *example.shape[2:]],
        "min_length": min_length(encoder),
    }
    if isinstance(encoder, Whisper):
        extractor = {"kind": "log_mel", "max_samples": encoder.window}
        return {**found, **extractor, "shape": ["batch", *example.shape[1:]], "min_length": 1}
    if encoder.modality == "text":
        return {**found, "kind": "tokens", "config": encoder.config if encoder.name == "hashed_ngrams" else {}}
    return {**found, "kind": "samples", "normalize": bool(getattr(encoder, "do_normalize", False))}
