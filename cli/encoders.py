"""`mervn encoders`."""

from __future__ import annotations

import shutil
import textwrap

from cli.grouped_help import WIDTH
from cli.options import command
from cli.output import Output
from features.config import EncodersOptions
from features.encoders import ENCODERS, EncoderSpec


@command("encoders")
def encoders(options: EncodersOptions, output: Output) -> None:
    """List the encoders, and tell whether their weights are local.

    The list shows the model, width, frame rate, layers, needs and licence of each encoder.
    """
    rows, documents = [], []
    for modality, registry in ENCODERS.items():
        for name, spec in registry.items():
            local = _local(spec)
            rows.append((modality, name, spec.rate, spec.model or "-", local))
            documents.append({
                "modality": modality, "name": name, "description": spec.description, "model": spec.model,
                "width": spec.width, "rate": spec.rate, "layers": spec.layers, "default_layer": _depth(spec),
                "reason": spec.reason, "needs": spec.needs, "licence": spec.licence, "here": local,
            })  # fmt: skip
    output.table(("modality", "name", "frame rate", "default model", "local"), rows)
    width = min(shutil.get_terminal_size().columns, WIDTH)
    for registry in ENCODERS.values():
        for name, spec in registry.items():
            output.result(textwrap.fill(_describe(name, spec), width, subsequent_indent="  "))
    output.result(
        "select one with NAME[=MODEL][@LAYER]; MODEL is a folder or a hub id, ID or ID#REVISION:\n"
        "  --audio-encoder whisper=openai/whisper-base@4\n"
        "or a class of your own with FILE.py:Class[=MODEL][@LAYER]; see docs/adding-an-encoder.md"
    )
    output.document({"encoders": documents})


def _describe(name: str, spec: EncoderSpec) -> str:
    """Return the description of an encoder."""
    depth = "last" if spec.depth is None else f"at {spec.depth:.0%} of them"
    return (
        f"{name}: {spec.description}. Width {spec.width}. Layers {spec.layers}; default layer "
        f"{depth}. Needs {spec.needs}. Licence: {spec.licence}."
    )


def _depth(spec: EncoderSpec) -> str:
    """Return the default layer as the JSON document gives it."""
    return "last" if spec.depth is None else f"{spec.depth:.2f} of them"


def _local(spec: EncoderSpec) -> str:
    """Tell whether the default model loads offline: from the cache, or with random weights."""
    if spec.model is None:
        return "yes" if spec.makes_weights else "give one"
    from features.encoders.hub import is_cached

    return "yes" if is_cached(spec.model, spec.files) else "no"
