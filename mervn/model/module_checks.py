"""What holds for every head, whatever it is built of: an utterance's numbers are its own.

Each check builds small heads and returns what is wrong in plain words, or None. The built-in fusions and poolings pass
them in the tests, a user's own in `mervn check-module`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from features.ragged import Ragged
from mervn.config import HeadOptions
from mervn.data.streams import StreamShape
from mervn.model.head import Head, PaddedHead, build_head

SHAPES = {"text": StreamShape(6), "audio": StreamShape(5)}
SIZES = {"text": (3, 2, 0, 6, 1), "audio": (5, 0, 1, 17, 9)}
"""With an utterance without text, one without audio, and lengths of 1."""
WATCHED = 3
"""An utterance with several rows in both streams."""
NUM_CLASSES = 3
DIM = 8
TOLERANCE = 2e-5
GARBAGE = 1e4
RUNS = "it runs"
"""The check without which no other makes sense."""
BF16_ALONE, BF16_FP32 = 0.05, 0.15
"""How far bf16 may be from itself alone and from fp32, of the greatest logit."""
Make = Callable[[int], Head]
"""Builds a head in eval mode; the same seed gives the same weights."""


def maker(**changes: object) -> Make:
    """Return what builds a small head of these options; its weights are large enough for a leak to show."""

    def make(seed: int) -> Head:
        torch.manual_seed(seed)
        head = build_head(
            HeadOptions.model_validate({"dim": DIM, "heads": 2, "mlp": (7,), "dropout": 0.0, **changes}),
            SHAPES,
            NUM_CLASSES,
        ).eval()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(2)
        return head

    return make


def make_streams(requires_grad: bool = False) -> dict[str, Ragged]:
    """Return a batch of the sizes above; the same every time."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: Ragged.from_lengths(
            torch.randn(sum(SIZES[name]), shape.width, generator=generator).requires_grad_(requires_grad), SIZES[name]
        )
        for name, shape in SHAPES.items()
    }


def one_of(streams: dict[str, Ragged], i: int) -> dict[str, Ragged]:
    """Return a batch of one utterance."""
    return {name: Ragged.from_sequences([stream.split()[i]]) for name, stream in streams.items()}


def all_alone(head: Head, streams: dict[str, Ragged]) -> Tensor:
    """Return the logits (B, C) of each utterance in a batch of its own."""
    batch_size = next(iter(streams.values())).batch_size
    return torch.cat([head(one_of(streams, i)) for i in range(batch_size)])


@contextmanager
def garbage_in_padding() -> Iterator[None]:
    """Make `Ragged.pad()` fill with a large number wherever no fill is asked for."""
    pad = Ragged.pad
    with mock.patch.object(Ragged, "pad", lambda self, fill=GARBAGE: pad(self, fill)):
        yield


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return the greatest difference, relative to logits that are greater than 1; inf for NaN."""
    difference = (found - expected).abs().max().item() / max(1.0, expected.abs().max().item())
    return difference if difference == difference else float("inf")


def same_alone(make: Make) -> str | None:
    """Compare the logits of each utterance with those it has alone, whatever lies in the padding."""
    head, streams = make(0), make_streams()
    with garbage_in_padding():
        difference = _distance(head(streams), all_alone(head, streams))
    if difference > TOLERANCE:
        return (
            f"an utterance's logits change by {difference:.2g} with its batch-mates and the padding; mask what pad() "
            "adds (Ragged.mask is true on real rows), or work on the packed values"
        )
    return None


def blind_to_padding(make: Make) -> str | None:
    """Compare with padded input that has NaN in the padding: the very same logits."""
    head, streams = make(0), make_streams()
    padded = {name: stream.pad(float("nan")) for name, stream in streams.items()}
    lengths = {f"{name}_lengths": stream.lengths for name, stream in streams.items()}
    difference = _distance(PaddedHead(head)(**padded, **lengths), head(streams))
    return f"NaN in the padding of the input changes the logits by {difference:.2g}" if difference else None


def blind_to_order(make: Make) -> str | None:
    """Compare with the batch in another order."""
    head, streams = make(0), make_streams()
    turned = {name: Ragged.from_sequences(stream.split()[::-1]) for name, stream in streams.items()}
    difference = _distance(head(turned).flip(0), head(streams))
    return f"the order of the batch changes logits by {difference:.2g}" if difference > TOLERANCE else None


def finite_when_empty(make: Make) -> str | None:
    """Look for logits that are not finite, for sequences of length 0 and 1 and a batch of nothing else."""
    head, streams = make(0), make_streams()
    empty = {name: Ragged.from_lengths(torch.empty(0, shape.width), (0, 0)) for name, shape in SHAPES.items()}
    short = {name: Ragged.from_lengths(torch.ones(2, shape.width), (1, 0, 1)) for name, shape in SHAPES.items()}
    batches = {"some": streams, "all": empty}
    found = [f"where {n} sequences are empty" for n, batch in batches.items() if not head(batch).isfinite().all()]
    found += [] if head(short).isfinite().all() else ["for sequences of one row"]
    return f"logits are not finite {' and '.join(found)}" if found else None


def own_gradient(make: Make) -> str | None:
    """Look where the gradient of one utterance goes: to its own rows, and no others."""
    head, streams = make(0), make_streams(requires_grad=True)
    head(streams)[WATCHED].square().sum().backward()
    for name in head.projections:
        gradient, own = streams[name].values.grad, streams[name].segments == WATCHED
        if gradient is None or not gradient[own].any():
            return f"no gradient reaches the {name} of an utterance: {_unused(head, name)}"
        if not gradient.isfinite().all():
            return f"the gradient of {name} is not finite"
        if gradient[~own].any():
            return f"the gradient of one utterance reaches the {name} of its batch-mates"
    return None


def _unused(head: Head, stream: str) -> str:
    """Say what to do about a stream that no gradient reaches."""
    others = [name for name in head.projections if name != stream]
    hint = (
        f"; if it is to read {others[0]} alone, give the class streams = ({others[0]!r},)" if len(others) == 1 else ""
    )
    return f"the module does not use {stream}, or detaches it{hint}"


def every_parameter_learns(make: Make) -> str | None:
    """Look for parameters without a finite gradient."""
    head = make(0)
    head(make_streams()).square().sum().backward()
    for name, parameter in head.named_parameters():
        if parameter.grad is None:
            stream = name.split(".")[1] if name.startswith("projections.") else None
            return f"{name} has no gradient: {_unused(head, stream) if stream else 'it is not used'}"
        if not parameter.grad.isfinite().all():
            return f"the gradient of {name} is not finite"
    return None


def same_when_loaded(make: Make) -> str | None:
    """Compare with a head that has loaded the weights."""
    first, second, streams = make(0), make(1), make_streams()
    if torch.equal(first(streams), second(streams)):
        return "two seeds give the same logits: the weights do not matter"
    second.load_state_dict(first.state_dict())
    if not torch.equal(first(streams), second(streams)):
        return "saved and loaded, the logits are others: register every tensor as a parameter or a buffer"
    return None


def repeatable(make: Make) -> str | None:
    """Compare the logits of one batch in eval mode before and after another."""
    head, streams = make(0), make_streams()
    first = head(streams)
    head(one_of(streams, WATCHED))
    if not torch.equal(first, head(streams)):
        return "in eval mode the same batch gives other logits the second time: dropout, or a state kept from before?"
    return None


def tells_apart(make: Make) -> str | None:
    """Look for logits that do not depend on the utterance."""
    spread = make(0)(make_streams()).std(0).max().item()
    return None if spread > 1e-3 else f"all utterances have the same logits (they differ by {spread:.2g})"


def steady_in_bf16(make: Make) -> str | None:
    """Compare bf16 autocast with itself alone and with fp32."""
    head, streams = make(0), make_streams()
    exact = head(streams)
    scale = exact.abs().max().item()
    with torch.autocast("cpu", torch.bfloat16):
        together, alone = head(streams), all_alone(head, streams)
    mates, precision = ((together - other).abs().max().item() / scale for other in (alone, exact))
    if not mates <= BF16_ALONE:
        return f"in bf16 logits change by {mates:.2g} of the greatest with the batch-mates"
    if not precision <= BF16_FP32:
        return f"in bf16 logits are {precision:.2g} of the greatest away from fp32: compute sums and softmax in fp32"
    return None


HEAD_CHECKS: dict[str, Callable[[Make], str | None]] = {
    "batch = alone": same_alone,
    "NaN in the padding": blind_to_padding,
    "order of the batch": blind_to_order,
    "length 0 and 1": finite_when_empty,
    "gradients only where there is data": own_gradient,
    "every parameter learns": every_parameter_learns,
    "saved and loaded": same_when_loaded,
    "the same twice": repeatable,
    "utterances differ": tells_apart,
    "bf16": steady_in_bf16,
}
"""By name."""


def finite_scalar(loss: nn.Module) -> str | None:
    """Look at what it returns."""
    found = loss(*make_answers())
    if not isinstance(found, Tensor) or found.ndim:
        return f"forward must return a scalar, found {describe(found)}"
    return None if found.isfinite() else f"it must be finite, found {found.item()}"


def order_blind_loss(loss: nn.Module) -> str | None:
    """Compare with the batch in another order."""
    logits, targets = make_answers()
    change = (loss(logits.flip(0), targets.flip(0)) - loss(logits, targets)).abs().item()
    return f"the order of the batch changes it by {change:.2g}" if change > TOLERANCE else None


def mean_over_batch(loss: nn.Module) -> str | None:
    """Compare with the same batch twice over: a mean does not change, and only means can be weighted by batch size."""
    logits, targets = make_answers()
    once, twice = loss(logits, targets).item(), loss(logits.repeat(2, 1), targets.repeat(2)).item()
    if abs(once - twice) > TOLERANCE:
        return f"it must be a mean over the batch, but is {once:.3g} for a batch and {twice:.3g} for it twice over"
    return None


def finite_loss_gradient(loss: nn.Module) -> str | None:
    """Look at its gradient, for uncertain and for certain logits."""
    for size in (1.0, 60.0):
        logits, targets = make_answers()
        logits = (logits * size).requires_grad_()
        loss(logits, targets).backward()
        if logits.grad is None or not logits.grad.isfinite().all():
            return f"the gradient is missing or not finite for logits {size:g} times as large as usual"
        if size == 1 and not logits.grad.any():
            return "the gradient is zero"
    return None


def teaches(loss: nn.Module) -> str | None:
    """Compare right answers with wrong ones."""
    targets = make_answers()[1]
    right = nn.functional.one_hot(targets, NUM_CLASSES).float() * 6 - 3
    good, bad = loss(right, targets).item(), loss(-right, targets).item()
    return None if good < bad else f"right answers cost {good:.3g} and wrong ones {bad:.3g}: right ones must cost less"


def make_answers() -> tuple[Tensor, Tensor]:
    """Return logits (6, C) and targets (6,); the same every time."""
    return torch.randn(6, NUM_CLASSES, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 0, 2, 2])


LOSS_CHECKS: dict[str, Callable[[nn.Module], str | None]] = {
    RUNS: finite_scalar,
    "order of the batch": order_blind_loss,
    "a mean over the batch": mean_over_batch,
    "finite gradients": finite_loss_gradient,
    "right costs less than wrong": teaches,
}
"""By name; all with and without class weights."""


def describe(found: object) -> str:
    """Return what an object is, for a message."""
    if isinstance(found, Ragged):
        return f"a Ragged of {found.batch_size} utterances and width {found.values.shape[-1]}"
    if isinstance(found, Tensor):
        return f"a tensor {tuple(found.shape)}"
    if isinstance(found, (list, tuple)):
        return f"a {type(found).__name__} of {', '.join(map(describe, found)) or 'nothing'}"
    return f"a {type(found).__name__}"
