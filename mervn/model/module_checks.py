"""Invariance checks of heads: above all, an utterance's logits must not depend on its batch.

Each check builds small heads and returns what is wrong, or None. The tests run the checks on all
built-in fusions and poolings; `mervn check-module` runs them on custom modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from features.ragged import Ragged
from mervn.config import HeadOptions
from mervn.data.streams import StreamShape
from mervn.model.custom_module import CustomModule
from mervn.model.head import Head, PaddedHead, build_head
from mervn.model.head_modules import head_modules

SHAPES = {"text": StreamShape(6), "audio": StreamShape(5)}
SIZES = {"text": (3, 2, 0, 6, 1), "audio": (5, 0, 1, 17, 9)}
"""Sequence lengths of the test batch.

One utterance has no text, one has no audio, and some lengths are 1."""
LONG_UTTERANCE = 3
"""Index of an utterance with several frames in both streams."""
NUM_CLASSES = 3
DIM = 8
TOLERANCE = 2e-5
GARBAGE = 1e4
"""Value written into the padding to make any use of it visible."""
RUNS = "forward runs"
"""The check without which no other makes sense."""
BF16_ALONE, BF16_FP32 = 0.05, 0.15
"""Maximum difference of bf16 logits from those of each utterance alone, and from fp32 logits.

Both are relative to the largest logit."""
HeadFactory = Callable[[int], Head]
"""Builds a head in eval mode from a seed; the same seed gives the same weights."""


def head_factory(custom: Mapping[str, CustomModule] | None = None, **changes: object) -> HeadFactory:
    """Return a function that builds a small head with the given options.

    Its weights are twice as large as usual, so that leaks show. `custom` are the custom modules
    that the options name, by role; by default, their files are read.
    """
    options = HeadOptions.model_validate({"dim": DIM, "heads": 2, "mlp": (7,), "dropout": 0.0, **changes})
    modules = head_modules(options, custom)

    def make(seed: int) -> Head:
        torch.manual_seed(seed)
        head = build_head(options, SHAPES, NUM_CLASSES, modules).eval()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(2)
        return head

    return make


def make_streams(requires_grad: bool = False) -> dict[str, Ragged]:
    """Return a batch with the lengths of `SIZES`, always with the same values."""
    generator = torch.Generator().manual_seed(1)
    streams = {}
    for name, shape in SHAPES.items():
        values = torch.randn(sum(SIZES[name]), shape.width, generator=generator).requires_grad_(requires_grad)
        streams[name] = Ragged.from_lengths(values, SIZES[name])
    return streams


def single_utterance(streams: dict[str, Ragged], i: int) -> dict[str, Ragged]:
    """Return utterance i as a batch of size 1."""
    return {name: Ragged.from_sequences([stream.split()[i]]) for name, stream in streams.items()}


def logits_alone(head: Head, streams: dict[str, Ragged]) -> Tensor:
    """Return the logits (B, C) with every utterance in a batch of its own."""
    batch_size = next(iter(streams.values())).batch_size
    return torch.cat([head(single_utterance(streams, i)) for i in range(batch_size)])


@contextmanager
def garbage_in_padding() -> Iterator[None]:
    """Make `Ragged.pad()` fill with a large number by default, instead of zeros."""
    pad = Ragged.pad
    with mock.patch.object(Ragged, "pad", lambda self, fill=GARBAGE: pad(self, fill)):
        yield


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return the maximum difference of logits; inf for NaN.

    It is relative to the largest expected logit if that exceeds 1.
    """
    difference = (found - expected).abs().max().item() / max(1.0, expected.abs().max().item())
    return math.inf if math.isnan(difference) else difference


def independent_of_batch(make: HeadFactory) -> str | None:
    """Compare each utterance's logits alone with its logits in a batch with garbage as padding."""
    head, streams = make(0), make_streams()
    with garbage_in_padding():
        difference = _distance(head(streams), logits_alone(head, streams))
    if difference > TOLERANCE:
        return (
            f"an utterance's logits change by {difference:.2g} with the other utterances of its "
            "batch and the padding; mask the padding of pad() (Ragged.mask is true for real frames), "
            "or use the packed values"
        )
    return None


def independent_of_padding(make: HeadFactory) -> str | None:
    """Compare padded input, with NaN as padding, with packed input: logits must be identical."""
    head, streams = make(0), make_streams()
    padded: dict[str, Tensor] = {}
    for name, stream in streams.items():
        padded |= {name: stream.pad(float("nan")), f"{name}_lengths": stream.lengths}
    difference = _distance(PaddedHead(head)(**padded), head(streams))
    return f"NaN in the padding of the input changes the logits by {difference:.2g}" if difference else None


def independent_of_order(make: HeadFactory) -> str | None:
    """Compare with the batch in reverse order."""
    head, streams = make(0), make_streams()
    reverse = {name: Ragged.from_sequences(stream.split()[::-1]) for name, stream in streams.items()}
    difference = _distance(head(reverse).flip(0), head(streams))
    return f"the order of the batch changes logits by {difference:.2g}" if difference > TOLERANCE else None


def finite_for_short_sequences(make: HeadFactory) -> str | None:
    """Require finite logits for sequences of length 0 and 1, and for a batch of empty sequences."""
    head, faults = make(0), []
    empty, short = {}, {}
    for name, shape in SHAPES.items():
        empty[name] = Ragged.from_lengths(torch.empty(0, shape.width), (0, 0))
        short[name] = Ragged.from_lengths(torch.ones(2, shape.width), (1, 0, 1))
    cases = {
        "if some sequences are empty": make_streams(),
        "if all sequences are empty": empty,
        "for sequences of length 1": short,
    }
    for case, batch in cases.items():
        if not head(batch).isfinite().all():
            faults.append(case)
    return f"logits are not finite {' and '.join(faults)}" if faults else None


def gradient_within_utterance(make: HeadFactory) -> str | None:
    """Require that the gradient of an utterance reaches all its streams and no other utterance."""
    head, streams = make(0), make_streams(requires_grad=True)
    head(streams)[LONG_UTTERANCE].square().sum().backward()
    for name in head.projections:
        gradient, own = streams[name].values.grad, streams[name].segments == LONG_UTTERANCE
        if gradient is None or not gradient[own].any():
            return f"no gradient reaches the {name} of an utterance: {_unused(head, name)}"
        if not gradient.isfinite().all():
            return f"the gradient of {name} is not finite"
        if gradient[~own].any():
            return f"the gradient of one utterance reaches the {name} of other utterances in its batch"
    return None


def _unused(head: Head, stream: str) -> str:
    """Return a hint on how to fix a stream without gradient."""
    others = [name for name in head.projections if name != stream]
    hint = ""
    if len(others) == 1:
        hint = f"; if it should read only {others[0]}, give the class streams = ({others[0]!r},)"
    return f"the module does not use {stream}, or detaches it{hint}"


def every_parameter_has_gradient(make: HeadFactory) -> str | None:
    """Require a finite gradient for every parameter."""
    head = make(0)
    head(make_streams()).square().sum().backward()
    for name, parameter in head.named_parameters():
        if parameter.grad is None:
            stream = name.split(".")[1] if name.startswith("projections.") else None
            return f"{name} has no gradient: {_unused(head, stream) if stream else 'it is not used'}"
        if not parameter.grad.isfinite().all():
            return f"the gradient of {name} is not finite"
    return None


def same_after_loading(make: HeadFactory) -> str | None:
    """Compare with another head that loads the state dict."""
    first, second, streams = make(0), make(1), make_streams()
    if torch.equal(first(streams), second(streams)):
        return "two seeds give the same logits: the logits do not depend on the weights"
    second.load_state_dict(first.state_dict())
    if not torch.equal(first(streams), second(streams)):
        return "the logits change after saving and loading: register every tensor as a parameter or a buffer"
    return None


def deterministic_in_eval(make: HeadFactory) -> str | None:
    """Run the same batch twice in eval mode, with another batch in between."""
    head, streams = make(0), make_streams()
    first = head(streams)
    head(single_utterance(streams, LONG_UTTERANCE))
    if not torch.equal(first, head(streams)):
        return "in eval mode the same batch gives different logits the second time: is there dropout, or kept state?"
    return None


def depends_on_input(make: HeadFactory) -> str | None:
    """Require that the logits differ between utterances."""
    spread = make(0)(make_streams()).std(0).max().item()
    return None if spread > 1e-3 else f"all utterances have the same logits (they differ by {spread:.2g})"


def stable_in_bf16(make: HeadFactory) -> str | None:
    """Compare bf16 autocast with the same utterances alone, and with fp32."""
    head, streams = make(0), make_streams()
    exact = head(streams)
    scale = exact.abs().max().item()
    with torch.autocast("cpu", torch.bfloat16):
        together, alone = head(streams), logits_alone(head, streams)
    batch_error = (together - alone).abs().max().item() / scale
    precision_error = (together - exact).abs().max().item() / scale
    # "not <=" instead of ">": NaN must fail too
    if not batch_error <= BF16_ALONE:
        return (
            f"in bf16, logits change by {batch_error:.2g} of the largest logit with the other utterances of the batch"
        )
    if not precision_error <= BF16_FP32:
        return (
            f"in bf16, logits differ from fp32 by {precision_error:.2g} of the largest logit: "
            "compute sums and softmax in fp32"
        )
    return None


HEAD_CHECKS: dict[str, Callable[[HeadFactory], str | None]] = {
    "batch = alone": independent_of_batch,
    "NaN in the padding": independent_of_padding,
    "order of the batch": independent_of_order,
    "length 0 and 1": finite_for_short_sequences,
    "gradients within the utterance": gradient_within_utterance,
    "every parameter has a gradient": every_parameter_has_gradient,
    "saved and loaded": same_after_loading,
    "deterministic in eval mode": deterministic_in_eval,
    "logits depend on the input": depends_on_input,
    "bf16": stable_in_bf16,
}
"""Checks of a head, by name."""


def describe(found: object) -> str:
    """Return a short description of an object for an error message."""
    if isinstance(found, Ragged):
        return f"a Ragged of {found.batch_size} utterances and width {found.values.shape[-1]}"
    if isinstance(found, Tensor):
        return f"a tensor {tuple(found.shape)}"
    if isinstance(found, (list, tuple)):
        return f"a {type(found).__name__} of {', '.join(map(describe, found)) or 'nothing'}"
    return f"a {type(found).__name__}"
