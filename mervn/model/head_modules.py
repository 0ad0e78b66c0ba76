"""Fusion and poolings of a head, resolved once from its options, custom modules included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features.errors import UsageError
from mervn.config import HeadOptions
from mervn.model.custom_module import CustomModule, fusion_spec, pooling_target, read_modules
from mervn.registry import LINEAR_POOLING, POOLINGS, FusionSpec


@dataclass(frozen=True)
class HeadModules:
    """The fusion and the poolings that a head is built from; custom ones are loaded already."""

    fusion: FusionSpec
    poolings: tuple[str, ...]
    """`module:Class` of the pooling of each output sequence of the fusion."""


def head_modules(options: HeadOptions, custom: Mapping[str, CustomModule] | None = None) -> HeadModules:
    """Resolve the fusion and the poolings that the options name.

    `custom` are the custom modules that the options name, by role; by default, their files are
    read. With `cls`, a sequence that does not begin with text gets mean pooling. UsageError if no
    sequence does.
    """
    if custom is None:
        custom = read_modules(options)
    fusion = fusion_spec(options.fusion, custom)
    if fusion.linear:
        return HeadModules(fusion, (POOLINGS[LINEAR_POOLING],) * len(fusion.outputs))
    if options.pooling == "cls" and "text" not in fusion.outputs:
        others = ", ".join(name for name in POOLINGS if name != "cls")
        raise UsageError(
            f"--pooling cls takes the text [CLS] position, which --fusion {options.fusion} does not have; "
            f"choose one of {others}"
        )
    pooling = pooling_target(options.pooling, custom)
    if options.pooling != "cls":
        return HeadModules(fusion, (pooling,) * len(fusion.outputs))
    poolings = [pooling if lead == "text" else POOLINGS["mean"] for lead in fusion.outputs]
    return HeadModules(fusion, tuple(poolings))
