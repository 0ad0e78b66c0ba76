"""Attention weights of one utterance: equal to plain NumPy, over real positions only, and those of the saved scores."""

from typing import Any

import numpy as np
import pytest
import torch

from features.ragged import Ragged
from mervn.config import HeadOptions
from mervn.data.streams import StreamShape
from mervn.evaluation.attention import utterance_attention
from mervn.model.head import build_head

Array = np.ndarray[Any, Any]
DIM, HEADS = 8, 2


def softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def projected(state: dict[str, Array], name: str, frames: Array) -> Array:
    """Return LN(x W) with the learned scale and shift."""
    values = frames @ state[f"projections.{name}.linear.weight"].T
    normed = (values - values.mean(-1, keepdims=True)) / np.sqrt(values.var(-1, keepdims=True) + 1e-5)
    return normed * state[f"projections.{name}.norm.weight"] + state[f"projections.{name}.norm.bias"]


def attention(state: dict[str, Array], direction: str, queries: Array, keys: Array) -> tuple[Array, Array]:
    """Return the mean weights over heads (Tq, Tk) and the output (Tq, D)."""
    place = f"fusion.{direction}.attention"
    q = queries @ state[f"{place}.query.weight"].T + state[f"{place}.query.bias"]
    k, v = np.split(keys @ state[f"{place}.key_value.weight"].T + state[f"{place}.key_value.bias"], 2, axis=-1)
    size, found, outputs = DIM // HEADS, [], []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        found.append(softmax(q[:, part] @ k[:, part].T / np.sqrt(size)))
        outputs.append(found[-1] @ v[:, part])
    mixed = np.concatenate(outputs, -1) @ state[f"{place}.out.weight"].T + state[f"{place}.out.bias"]
    return np.mean(found, axis=0), mixed


def test_weights_equal_numpy_and_no_weight_is_on_padding() -> None:
    torch.manual_seed(0)
    shapes = {"text": StreamShape(5), "audio": StreamShape(6, stride=320, centre=200.0)}
    head = build_head(HeadOptions(dim=DIM, heads=HEADS, pooling="attn", mlp=(4,)), shapes, 2).double().eval()
    text, audio = [torch.randn(4, 5).double(), torch.randn(9, 5).double()], [torch.randn(n, 6).double() for n in (7, 3)]
    alone = {"text": Ragged.from_sequences(text[:1]), "audio": Ragged.from_sequences(audio[:1])}
    padded = {"text": Ragged.from_sequences(text), "audio": Ragged.from_sequences(audio)}
    state = {name: tensor.numpy() for name, tensor in head.state_dict().items()}
    t, a = projected(state, "text", text[0].numpy()), projected(state, "audio", audio[0].numpy())
    to_audio, new_text = attention(state, "text_to_audio", t, a)
    to_text, new_audio = attention(state, "audio_to_text", a, t)
    fused = np.concatenate([new_text, new_audio])
    hidden = np.tanh(fused @ state["poolings.0.hidden.weight"].T + state["poolings.0.hidden.bias"])
    pooled = softmax((hidden @ state["poolings.0.score.weight"].T)[:, 0])
    with torch.inference_mode():
        found = utterance_attention("u", head, alone)
        in_batch = head.fusion.attention_weights(head.project(padded))["text_to_audio"][0]  # type: ignore[operator]
    by_name = {cross.name: cross.weights for cross in found.cross}
    assert by_name["text_to_audio"] == pytest.approx(to_audio) and by_name["audio_to_text"] == pytest.approx(to_text)
    assert by_name["text_to_audio"].shape == (4, 7) == tuple(in_batch.shape[1:])
    assert in_batch.mean(0).numpy() == pytest.approx(to_audio)  # a longer utterance in the batch changes nothing
    parts = found.pooling[0].parts
    assert np.concatenate([parts["text"], parts["audio"]]) == pytest.approx(pooled, abs=1e-6)
    assert parts["text"].shape == (4,) and parts["audio"].shape == (7,)
    for weights in by_name.values():
        assert weights.sum(-1) == pytest.approx(np.ones(len(weights)))
    wrong, _ = attention(state, "audio_to_text", t, a)  # negative control: the other direction's weights differ
    assert np.abs(wrong - to_audio).max() > 1e-3


def test_each_block_of_a_recurrent_fusion_has_a_map_and_a_missing_modality_one_frame() -> None:
    shapes = {"text": StreamShape(5), "audio": StreamShape(6, stride=320, centre=200.0)}
    options = HeadOptions(fusion="bilstm_attn", dim=DIM, heads=HEADS, blocks=2, rnn_hidden=4, pooling="mean", mlp=(4,))
    head = build_head(options, shapes, 2).eval()
    streams = {"text": Ragged.from_sequences([torch.zeros(0, 5)]), "audio": Ragged.from_sequences([torch.randn(6, 6)])}
    with torch.inference_mode():
        found = utterance_attention("u", head, streams)
    assert [cross.name for cross in found.cross] == [
        f"block_{block}.{way}" for block in (0, 1) for way in ("text_to_audio", "audio_to_text")
    ]
    assert found.cross[0].weights.shape == (1, 6) and found.sizes == {"text": 0, "audio": 6} and not found.pooling
