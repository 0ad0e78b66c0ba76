"""Padded: every operation of Ragged gives the same real frames, and no operation reads the padding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from every_encoder import inputs, load
from test_head import CASES, make_head
from tiny_extraction import small_encoders

from features import padded
from features.encoders.base import Encoder, load_encoder
from features.encoders.selector import parse_selector
from features.padded import Padded
from features.ragged import Ragged, concatenate, padding_mask, segment_mean, segment_sum
from mervn.model.end_to_end import encode_inputs
from mervn.model.head import PaddedHead
from mervn.model.module_checks import make_streams
from mervn.use.onnx_model import PaddedModel, min_length
from mervn.use.run_encoders import StreamEncoder

SIZES = (3, 0, 5, 1)
OTHER_SIZES = (2, 4, 0, 1)


def both(sizes: tuple[int, ...], seed: int, extra: int = 2) -> tuple[Ragged, Padded]:
    """Return the same sequences of width 3, packed, and padded with NaN beyond the longest one."""
    values = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed))
    packed = Ragged.from_lengths(values, sizes)
    filled = torch.full((len(sizes), max(sizes) + extra, 3), float("nan"))
    filled[:, : max(sizes)] = packed.pad(float("nan"))
    return packed, Padded.of(filled, packed.lengths)


def same(found: Padded, expected: Ragged) -> bool:
    """Tell whether a padded batch has the lengths and the real frames of a packed one."""
    repacked = Ragged.from_padded(found.pad(), found.lengths)
    return repacked.sizes == expected.sizes and torch.allclose(repacked.values, expected.values, atol=1e-6)


def test_every_operation_gives_the_frames_of_ragged() -> None:
    (packed, filled), (other, filled_other) = both(SIZES, 0), both(OTHER_SIZES, 1, extra=0)
    assert same(filled, packed) and not same(filled, other)
    joined = filled.join(filled_other)
    assert same(joined, concatenate(packed, other)) and joined.max_length == filled.max_length + 4
    assert same(joined.join(filled), concatenate(concatenate(packed, other), packed))
    for backward in (False, True):
        steps, expected = filled.pad_time_major(backward), packed.pad_time_major(backward)
        assert torch.equal(steps[:, : packed.max_length], expected) and not steps[:, packed.max_length :].any()
        assert same(filled.pack_time_major(steps, backward), packed)
    token = torch.full((1, 3), 7.0)
    assert same(filled.fill_empty(token), packed.fill_empty(token))
    vectors = torch.arange(12.0).reshape(4, 3)
    assert same(filled.one_frame(vectors), packed.one_frame(vectors))
    torch.testing.assert_close(segment_sum(filled), segment_sum(packed))
    torch.testing.assert_close(segment_mean(filled), segment_mean(packed))
    real = filled.mask.flatten()
    assert filled.positions[real].tolist() == packed.positions.tolist()
    assert filled.segments[real].tolist() == packed.segments.tolist()
    assert (filled.batch_size, filled.total, filled.offsets.tolist()) == (4, 28, [0, 7, 14, 21])
    with pytest.raises(NotImplementedError, match="each sequence on its own"):
        filled.split()


def test_windows_and_changed_lengths_are_those_of_ragged() -> None:
    samples = Ragged.from_lengths(torch.arange(30.0), (9, 4, 17))
    filled = Padded.of(samples.pad(), samples.lengths)
    assert same(filled.windows(4, 3), samples.windows(4, 3))
    halved = samples.pad()[:, ::2]
    assert same(filled.resized(halved, lambda n: (n + 1) // 2), samples.resized(halved, lambda n: (n + 1) // 2))


def test_sums_do_not_read_the_padding_even_if_a_layer_fills_it() -> None:
    packed, filled = both(SIZES, 0)
    spoiled = filled.replace(torch.where(filled.mask.flatten()[:, None], filled.values, float("inf")))
    torch.testing.assert_close(segment_sum(spoiled), segment_sum(packed))


def padded_arguments(streams: dict[str, Ragged], extra: int) -> dict[str, torch.Tensor]:
    """Return the arguments of a padded head, with NaN in the padding and `extra` frames of it."""
    arguments: dict[str, torch.Tensor] = {}
    for name, stream in streams.items():
        longest = max(1, stream.max_length) + extra
        filled = torch.full((stream.batch_size, longest, stream.values.shape[1]), float("nan"))
        filled[:, : stream.max_length] = stream.pad()
        arguments |= {name: filled, f"{name}_lengths": stream.lengths}
    return arguments


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_every_fusion_and_pooling_gives_the_logits_of_packed_streams(case: dict[str, Any]) -> None:
    head, streams = make_head(**{"pooling": "mean", **case}), make_streams()
    with torch.no_grad():
        expected = head(dict(streams))
        for extra in (0, 4):
            found = PaddedHead(head, Padded.of)(**padded_arguments(streams, extra))
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "attn", "max"])
def test_without_the_mask_the_logits_are_others(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, streams = make_head("xattn", pooling), make_streams()
    arguments = {name: torch.nan_to_num(tensor) for name, tensor in padded_arguments(streams, 4).items()}
    expected = head(dict(streams))
    torch.testing.assert_close(PaddedHead(head, Padded.of)(**arguments), expected, atol=2e-5, rtol=2e-5)
    monkeypatch.setattr(
        Padded, "mask", property(lambda self: torch.ones_like(padding_mask(self.lengths, self.max_length)))
    )
    monkeypatch.setattr(padded, "padding_mask", lambda lengths, size: torch.ones_like(padding_mask(lengths, size)))
    assert (PaddedHead(head, Padded.of)(**arguments) - expected).abs().max() > 1e-3


class Features(torch.nn.Module):
    """Stands for a head: returns features."""

    def classify(self, features: dict[str, Ragged]) -> Any:
        (found,) = features.values()
        return found


def encoders(folder: Path, checkpoints: dict[str, str]) -> dict[str, Encoder]:
    audio, text = small_encoders(folder)
    found = {
        "fourier2vec": load_encoder(parse_selector(f"{audio}@1,last", "audio")),
        "hashed_ngrams": load_encoder(parse_selector(text, "text")),
    }
    return found | {name: load(name, checkpoints) for name in ("wav2vec2", "wavlm", "hubert", "phobert")}


def test_encoders_give_the_features_of_packed_inputs(tmp_path: Path, checkpoints: dict[str, str]) -> None:
    for name, encoder in encoders(tmp_path, checkpoints).items():
        stream = StreamEncoder(encoder)
        model = PaddedModel(Features(), {"text": stream} if encoder.modality == "text" else {"audio": stream})  # type: ignore[arg-type]
        prepared = inputs(encoder)[-6:]
        empty = prepared[0][:0]
        sequences = [*prepared, empty]
        with torch.inference_mode():
            values, sizes = torch.cat(prepared), [len(one) for one in sequences]
            expected = encode_inputs(encoder, Ragged.from_lengths(values, sizes))
            longest = max(min_length(encoder), *sizes) + 3
            filled = torch.zeros(len(sequences), longest, *empty.shape[1:], dtype=empty.dtype)
            for place, sequence in zip(filled, sequences, strict=True):
                place[: len(sequence)] = sequence
            arguments = {encoder.modality: filled, f"{encoder.modality}_lengths": torch.tensor(sizes)}
            found: Any = model(**arguments)
        repacked = Ragged.from_padded(found.pad(), found.lengths)
        assert repacked.sizes == expected.sizes, name
        torch.testing.assert_close(repacked.values, expected.values, atol=2e-4, rtol=1e-4, msg=name)
