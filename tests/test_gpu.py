"""What only a GPU can show; skipped without one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_head import RESULTS, data, made, train  # noqa: F401
from torch import Tensor

from features.device import exact_fp32
from features.ragged import Ragged, to_device
from mervn.config import HeadOptions
from mervn.data.streams import StreamShape
from mervn.model.head import Head, build_head
from mervn.registry import FUSIONS, POOLINGS
from mervn.training.optimization import Precision

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda")
CASES = [(fusion, pooling) for fusion in FUSIONS for pooling in POOLINGS if (fusion, pooling) != ("audio", "cls")]
SHAPES = {"text": StreamShape(64), "audio": StreamShape(48)}
SIZES = {"text": (40, 7, 0, 21), "audio": (1500, 1400, 900, 1500)}
TARGETS = [0, 1, 2, 1]


def make_head(fusion: str, pooling: str) -> Head:
    torch.manual_seed(0)
    options = HeadOptions.model_validate({"fusion": fusion, "pooling": pooling, "dim": 64, "heads": 4, "dropout": 0.0})
    return build_head(options, SHAPES, 3).to(CUDA)


def make_streams() -> dict[str, Ragged]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: Ragged.from_lengths(torch.randn(sum(SIZES[name]), shape.width, generator=generator), SIZES[name]).to(CUDA)
        for name, shape in SHAPES.items()
    }


def gradients(head: Head, streams: dict[str, Ragged], amp: str) -> dict[str, Tensor]:
    head.zero_grad()
    precision, targets = Precision(amp, CUDA), to_device(torch.tensor(TARGETS), CUDA)
    with precision.autocast():
        logits = head(dict(streams))
    precision.backward(torch.nn.functional.cross_entropy(logits, targets))
    return {name: p.grad.clone() for name, p in head.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("fusion", "pooling"), CASES)
def test_gradients_in_bf16_are_those_of_fp32(fusion: str, pooling: str) -> None:
    head, streams = make_head(fusion, pooling), make_streams()
    exact, rounded = (gradients(head, streams, amp) for amp in ("off", "bf16"))
    assert exact.keys() == rounded.keys()
    whole, found = (torch.cat([g.flatten() for g in some.values()]) for some in (exact, rounded))
    assert torch.nn.functional.cosine_similarity(found, whole, dim=0) > 0.97
    assert (found.norm() / whole.norm()).item() == pytest.approx(1, abs=0.1)
    for name, gradient in exact.items():
        assert rounded[name].any() or not gradient.any(), f"the gradient of {name} vanishes"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_prediction_alone_is_that_of_a_batch(fusion: str) -> None:
    head, streams = make_head(fusion, "mean").eval(), make_streams()
    with exact_fp32(), torch.inference_mode():
        together = head(dict(streams)).double().softmax(-1)
        for i in range(len(TARGETS)):
            one = {name: Ragged.from_sequences([stream.split()[i]]) for name, stream in streams.items()}
            torch.testing.assert_close(head(one).double().softmax(-1)[0], together[i], atol=2e-5, rtol=0)


def test_a_forward_does_not_wait_for_the_gpu() -> None:
    head, streams = make_head("bilstm_attn", "attn"), make_streams()
    gradients(head, streams, "bf16")  # libraries are set up at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(head, streams, "bf16")
        Ragged.from_lengths(streams["audio"].values, SIZES["audio"])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_deterministic_training_gives_the_same_bytes_twice(data: Path, tmp_path: Path) -> None:  # noqa: F811
    runs = [train(data, tmp_path / name, device="cuda", deterministic=True).path for name in ("first", "second")]
    for name in RESULTS:
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()


def test_layouts_are_those_of_a_cpu() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(0, 9, 6).tolist()
        values = torch.empty(sum(sizes), 2)
        here, there = Ragged.from_lengths(values, sizes), Ragged.from_lengths(values.to(CUDA), sizes)
        for name in ("lengths", "segments", "index"):
            assert torch.equal(getattr(here, name), getattr(there, name).cpu())
