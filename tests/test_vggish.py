"""VGGish equals the public PyTorch port: front end, network, and number of patches."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_vggish, wave

from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.encoders.vggish import HIDDEN, Vggish
from features.errors import InputError
from features.ragged import Ragged

LENGTHS = (399, 400, 15_360, 15_599, 15_600, 15_601, 30_959, 30_960, 48_000, 160_000)


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    sys.modules.setdefault("resampy", types.ModuleType("resampy"))  # imported by the port, used at other rates only
    return pytest.importorskip("torchvggish.torchvggish"), pytest.importorskip("torchvggish.vggish_input")


@pytest.fixture(scope="module")
def dropping() -> Vggish:
    """The network in its own size."""
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.encoders.vggish.HIDDEN", HIDDEN)
        torch.manual_seed(0)
        return Vggish(final_relu=True, partial="drop").eval()


def test_the_front_end_and_the_number_of_patches_are_the_references(
    reference: tuple[Any, Any], dropping: Vggish
) -> None:
    for n in LENGTHS[2:]:
        samples = wave(n / 16_000, n)
        expected = reference[1].waveform_to_examples(samples.astype(np.float64), 16_000)  # (T, 1, 96, 64)
        assert dropping.get_feat_lengths(n) == len(expected)
        found = dropping.log_mel(torch.from_numpy(samples))[: 96 * len(expected)]
        if len(expected):
            torch.testing.assert_close(found, expected.detach().flatten(0, 2), atol=1e-5, rtol=0)


def test_the_network_is_the_references(reference: tuple[Any, Any], dropping: Vggish) -> None:
    network = reference[0].VGG(reference[0].make_layers(), postprocess=False).eval()
    network.load_state_dict(dropping.state_dict())
    samples = wave(2.5, 1)
    examples = reference[1].waveform_to_examples(samples.astype(np.float64), 16_000)
    with torch.inference_mode():
        found = dropping(Ragged.from_sequences([torch.from_numpy(samples)])).values
        torch.testing.assert_close(found, network(examples), atol=1e-5, rtol=0)
        assert found.min() == 0  # the port ends with a ReLU


def test_nothing_is_dropped_by_default(tmp_path: Path) -> None:
    encoder = load_encoder(parse_selector(f"vggish={make_vggish(tmp_path / 'v')}", "audio"))
    for n in LENGTHS:
        features = encoder(Ragged.from_sequences([encoder.prepare(wave(n / 16_000, n))])).values
        assert features.shape == (1 + -(-max(0, n - 15_600) // 15_360), 128)


def test_weights_are_looked_for_and_checked(tmp_path: Path) -> None:
    def load(model: str) -> None:
        load_encoder(parse_selector(f"vggish{model}", "audio"))

    with pytest.raises(InputError, match="has no default weights; use --audio-encoder vggish=FILE"):
        load("")
    with pytest.raises(InputError, match="found none"):
        load(f"={tmp_path}")
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="must hold the weights of VGGish"):
        load(f"={tmp_path}")
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="every weight of VGGish and no others"):
        load(f"={tmp_path / 'bad.pth'}")
