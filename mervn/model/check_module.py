"""`check-module`: a user's own fusion, pooling or loss through the checks that the built-in ones pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from features.errors import InputError
from features.lazy_import import import_target
from features.ragged import Ragged
from mervn.config import TrainHeadOptions
from mervn.model.custom_module import OwnModule, fusion_spec, loss_spec, place, pooling_target, read_own
from mervn.model.module_checks import DIM, HEAD_CHECKS, LOSS_CHECKS, RUNS, SHAPES, Make, describe, make_streams, maker

CLASS_WEIGHTS = (0.5, 1.0, 2.0)
Fault = Callable[[], str | None]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    fault: str | None
    """What is wrong, in plain words; None if nothing."""


def check_module(reference: str, role: str) -> list[Finding]:
    """Put a user's own class through every check of its role; UsageError where it cannot be loaded."""
    own = read_own(reference)
    checks = {"fusion": _fusion_checks, "pooling": _pooling_checks, "loss": _loss_checks}[role](reference)
    findings = []
    for name, check in checks.items():
        findings.append(Finding(name, _outcome(check, own)))
        if findings[-1].fault and name == RUNS:
            break  # the rest would say the same
    return findings


def _outcome(check: Fault, own: OwnModule) -> str | None:
    with torch.random.fork_rng([]):
        try:
            return check()
        except InputError as error:
            return str(error)
        except Exception as error:
            return f"{place(error, own.path)}: {type(error).__name__}: {error}"


def _over(makers: Mapping[str, Make], check: Callable[[Make], str | None]) -> Fault:
    """Return what runs one check over several heads and tells of the first fault."""

    def run() -> str | None:
        found = ((name, check(make)) for name, make in makers.items())
        return next((f"{fault} (with {name})" for name, fault in found if fault), None)

    return run


def _head_checks(makers: Mapping[str, Make], runs: Fault) -> dict[str, Fault]:
    return {RUNS: runs, **{name: _over(makers, check) for name, check in HEAD_CHECKS.items()}}


def _fusion_checks(reference: str) -> dict[str, Fault]:
    spec = fusion_spec(reference)
    makers = {
        f"--pooling {pooling} --missing {missing}": maker(fusion=reference, pooling=pooling, missing=missing)
        for pooling in ("mean", "attn")  # every row has a part in them
        for missing in ("token", "none")
    }

    def runs() -> str | None:
        head, streams = maker(fusion=reference, pooling="mean")(0), make_streams()
        sequences = head.fusion({name: head.projections[name](streams[name]) for name in spec.streams})
        if not isinstance(sequences, list) or not all(isinstance(one, Ragged) for one in sequences):
            return f"forward must return a list of Ragged, found {describe(sequences)}"
        if len(sequences) != len(spec.outputs):
            return f"forward must return {len(spec.outputs)} sequences, as `outputs` says, found {len(sequences)}"
        for one in sequences:
            expected = (streams["text"].batch_size, DIM)
            if (one.batch_size, one.values.shape[-1]) != expected:
                return (
                    f"a sequence must be of {expected[0]} utterances and width dim={expected[1]}, found {describe(one)}"
                )
        return None

    return _head_checks(makers, runs)


def _pooling_checks(reference: str) -> dict[str, Fault]:
    target = pooling_target(reference)
    makers = {
        f"--fusion {fusion} --missing {missing}": maker(fusion=fusion, pooling=reference, missing=missing)
        for fusion in ("xattn", "late", "audio")
        for missing in ("token", "none")
    }

    def runs() -> str | None:
        sequences = make_streams()["text"]
        expected = (sequences.batch_size, SHAPES["text"].width)
        pooled = import_target(target)(expected[1])(sequences)
        if not isinstance(pooled, Tensor) or pooled.shape != expected:
            return f"forward must return a tensor {expected}, found {describe(pooled)}"
        return None

    return _head_checks(makers, runs)


def _loss_checks(reference: str) -> dict[str, Fault]:
    spec = loss_spec(reference)
    options = {name: TrainHeadOptions.model_fields[name].get_default() for name in spec.options}

    def over(check: Callable[[nn.Module], str | None]) -> Fault:
        def run() -> str | None:
            for words, weights in (("without class weights", None), ("with class weights", CLASS_WEIGHTS)):
                given = None if weights is None else torch.tensor(weights)
                fault = check(import_target(spec.target)(given, **options))
                if fault:
                    return f"{fault} ({words})"
            return None

        return run

    return {name: over(check) for name, check in LOSS_CHECKS.items()}
