"""`mervn check-module`: run the checks of built-in modules on a custom module or encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from features.custom_code import CustomModule, error_location, read_module
from features.encoders.base import load_encoder
from features.encoders.encoder_checks import ENCODER_CHECKS
from features.encoders.selector import Selector, parse_selector
from features.errors import InputError
from features.lazy_import import import_target
from features.ragged import Ragged
from mervn.config import TrainHeadOptions
from mervn.model.custom_module import fusion_spec, loss_spec, pooling_target
from mervn.model.loss_checks import LOSS_CHECKS
from mervn.model.module_checks import (
    DIM,
    HEAD_CHECKS,
    RUNS,
    SHAPES,
    HeadFactory,
    describe,
    head_factory,
    make_streams,
)
from mervn.registry import LossSpec

CLASS_WEIGHTS = (0.5, 1.0, 2.0)
Check = Callable[[], str | None]
"""Returns what is wrong, or None."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    fault: str | None
    """What is wrong; None if the check passed."""


def check_module(reference: str, role: str) -> list[Finding]:
    """Run every check of a role on a custom module; UsageError if the module cannot be loaded.

    An encoder may have a model, FILE.py:Class=MODEL.
    """
    if role == "encoder":
        selector = parse_selector(reference, "audio")
        module = read_module(selector.name)
        checks = _encoder_checks(module, selector)
    else:
        module = read_module(reference)
        checks = {"fusion": _fusion_checks, "pooling": _pooling_checks, "loss": _loss_checks}[role](module)
    findings = []
    for name, check in checks.items():
        findings.append(Finding(name, _run_check(check, module)))
        if findings[-1].fault and name == RUNS:
            break  # every other check would fail for the same reason
    return findings


def _run_check(check: Check, module: CustomModule) -> str | None:
    """Return the fault that a check finds, or None.

    An exception counts as a fault, with its line in the custom module.
    """
    with torch.random.fork_rng([]):
        try:
            return check()
        except InputError as error:
            return str(error)
        except Exception as error:
            return f"{error_location(error, module.path)}: {type(error).__name__}: {error}"


def _head_checks(factories: Mapping[str, HeadFactory], runs: Check) -> dict[str, Check]:
    """Return all checks of a head, `runs` first."""
    checks = {RUNS: runs}
    for name, check in HEAD_CHECKS.items():
        checks[name] = _for_every_head(factories, check)
    return checks


def _for_every_head(factories: Mapping[str, HeadFactory], check: Callable[[HeadFactory], str | None]) -> Check:
    """Return a check over several heads that reports the first fault."""

    def run() -> str | None:
        for name, factory in factories.items():
            fault = check(factory)
            if fault:
                return f"{fault} (with {name})"
        return None

    return run


def _factories(variants: Mapping[str, Mapping[str, str]], custom: Mapping[str, CustomModule]) -> dict[str, HeadFactory]:
    """Return a head factory per variant of options, with and without a missing-modality token."""
    factories = {}
    for name, options in variants.items():
        for missing in ("token", "none"):
            factories[f"{name} --missing {missing}"] = head_factory(custom, **options, missing=missing)
    return factories


def _fusion_checks(module: CustomModule) -> dict[str, Check]:
    """Return the checks of a fusion."""
    reference, custom = module.reference, {"fusion": module}
    spec = fusion_spec(reference, custom)
    variants = {}
    for pooling in ("mean", "attn"):  # they depend on every frame, so a fault in any frame shows
        variants[f"--pooling {pooling}"] = {"fusion": reference, "pooling": pooling}

    def runs() -> str | None:
        head, streams = head_factory(custom, fusion=reference, pooling="mean")(0), make_streams()
        projected = {}
        for name in spec.streams:
            projected[name] = head.projections[name](streams[name])
        sequences = head.fusion(projected)
        return _output_fault(sequences, len(spec.outputs), streams["text"].batch_size)

    return _head_checks(_factories(variants, custom), runs)


def _output_fault(sequences: Any, num_outputs: int, batch_size: int) -> str | None:
    """Return what is wrong with the output of a fusion, or None."""
    if not isinstance(sequences, list) or not all(isinstance(sequence, Ragged) for sequence in sequences):
        return f"forward must return a list of Ragged, found {describe(sequences)}"
    if len(sequences) != num_outputs:
        return f"forward must return {num_outputs} sequences, as declared in `outputs`, found {len(sequences)}"
    for sequence in sequences:
        if (sequence.batch_size, sequence.values.shape[-1]) != (batch_size, DIM):
            return f"a sequence must have {batch_size} utterances and width dim={DIM}, found {describe(sequence)}"
    return None


def _pooling_checks(module: CustomModule) -> dict[str, Check]:
    """Return the checks of a pooling."""
    reference, custom = module.reference, {"pooling": module}
    target = pooling_target(reference, custom)
    variants = {}
    for fusion in ("xattn", "late", "audio"):
        variants[f"--fusion {fusion}"] = {"fusion": fusion, "pooling": reference}

    def runs() -> str | None:
        sequences = make_streams()["text"]
        expected = (sequences.batch_size, SHAPES["text"].width)
        pooled = import_target(target)(expected[1])(sequences)
        if not isinstance(pooled, Tensor) or pooled.shape != expected:
            return f"forward must return a tensor {expected}, found {describe(pooled)}"
        return None

    return _head_checks(_factories(variants, custom), runs)


def _loss_checks(module: CustomModule) -> dict[str, Check]:
    """Return the checks of a loss, each run without and with class weights."""
    spec = loss_spec(module.reference, {"loss": module})
    checks = {}
    for name, check in LOSS_CHECKS.items():
        checks[name] = _with_and_without_weights(spec, check)
    return checks


def _encoder_checks(module: CustomModule, selector: Selector) -> dict[str, Check]:
    """Return the checks of an encoder, with all of its layers; its file is executed."""
    encoder_class = module.load()
    modality = str(getattr(encoder_class, "modality", selector.modality))
    layers = ("all",) if callable(getattr(encoder_class, "forward_layers", None)) else None
    whole = replace(selector, modality=modality, layers=layers, code_sha256=module.sha256)
    return {name: partial(check, partial(load_encoder, whole)) for name, check in ENCODER_CHECKS.items()}


def _with_and_without_weights(spec: LossSpec, check: Callable[[nn.Module], str | None]) -> Check:
    """Return a check of a loss, without and with class weights, that reports the first fault."""
    options = {name: TrainHeadOptions.model_fields[name].get_default() for name in spec.options}

    def run() -> str | None:
        cases = {"without class weights": None, "with class weights": torch.tensor(CLASS_WEIGHTS)}
        for case, class_weights in cases.items():
            fault = check(import_target(spec.target)(class_weights, **options))
            if fault:
                return f"{fault} ({case})"
        return None

    return run
