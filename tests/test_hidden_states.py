"""Layer k of every encoder is `hidden_states[k]` of transformers, and layers do not depend on each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from every_encoder import EVERY, TEXTS, load
from tiny import make_text_transformer, make_wave_transformer, wave

from features.ragged import Ragged


def test_whisper_layers_are_the_hidden_states_of_the_library(checkpoints: dict[str, str]) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    reference = WhisperModel.from_pretrained(checkpoints["whisper"]).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoints["whisper"])
    samples = wave(1.1, 0)
    mel = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        output = reference.encoder(mel, output_hidden_states=True)
    num_frames = -(-len(samples) // 320)
    for layer in (0, 1, 2, 3, "last"):
        expected = output.last_hidden_state if layer == "last" else output.hidden_states[layer]
        encoder = load("whisper", checkpoints, f"@{layer}")
        found = encoder(Ragged.from_sequences([encoder.prepare(samples)])).values
        torch.testing.assert_close(found, expected[0, :num_frames], atol=1e-6, rtol=0)
    together = load("whisper", checkpoints, "@3,last").forward_layers(Ragged.from_sequences([torch.tensor(samples)]))
    assert torch.equal(together[0].values, together[1].values)
    assert load("whisper", checkpoints).layers == (2,)  # two thirds of three
    hashes = {load("whisper", checkpoints, layer).weights_sha256 for layer in ("@0", "@2", "@last")}
    assert len(hashes) == 1


LAYERED = [name for name in EVERY if name not in ("vggish", "hashed_ngrams")]


@pytest.mark.parametrize("name", LAYERED)
def test_layers_of_one_pass_are_those_of_single_passes(name: str, checkpoints: dict[str, str]) -> None:
    several = load(name, checkpoints, "@all")
    assert several.layers == tuple(range(several.num_layers + 1))
    raw: Any = wave(1.2, 0) if several.modality == "audio" else TEXTS[0]
    with torch.inference_mode():
        together = several.forward_layers(Ragged.from_sequences([several.prepare(raw)]))
        for layer in (0, 1, several.num_layers):
            single = load(name, checkpoints, f"@{layer}")
            found = single(Ragged.from_sequences([single.prepare(raw)])).values
            torch.testing.assert_close(together[layer].values, found, atol=1e-6, rtol=0)
    assert single.weights_sha256 == several.weights_sha256


@pytest.mark.parametrize("group_norm", [False, True])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "wavlm", "data2vec"])
def test_waveform_layers_are_the_hidden_states_of_the_library(name: str, group_norm: bool, tmp_path: Path) -> None:
    import transformers

    folder = make_wave_transformer(tmp_path / name, name, group_norm=group_norm)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    samples = torch.from_numpy(wave(0.7, 0))
    normal = (samples - samples.mean()) / torch.sqrt(samples.var(unbiased=False) + 1e-7)
    with torch.inference_mode():
        output = reference(normal[None], output_hidden_states=True)
    stable = name != "data2vec" and not group_norm
    top_is_last = torch.equal(output.hidden_states[3], output.last_hidden_state)
    assert top_is_last != stable  # with stable layer norm the final norm lies between them
    for layers in ("@0,1,2,3,last", "@1", "@3"):
        encoder = load(name, {name: str(folder)}, layers)
        found = encoder.forward_layers(Ragged.from_sequences([encoder.prepare(samples.numpy())]))
        for layer, hidden in zip(encoder.layers, found, strict=True):
            expected = output.last_hidden_state if layer == "last" else output.hidden_states[layer]
            torch.testing.assert_close(hidden.values, expected[0], atol=2e-5, rtol=0)


TEXT_FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": {}, "Roberta": {"pad_token_id": 0}, "XLMRoberta": {}, "XLMRobertaXL": {}, "ModernBert": {}, "T5": {},
    "Bart": {}, "DebertaV2": {}, "DebertaV2 with a convolution": {"conv_kernel_size": 3, "conv_act": "gelu"},
}  # fmt: skip


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_text_layers_are_the_hidden_states_of_the_library(family: str, tmp_path: Path) -> None:
    import transformers

    folder = make_text_transformer(tmp_path / "model", family.split(" ")[0], **TEXT_FAMILIES[family])
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    reference = reference.get_encoder() if reference.config.is_encoder_decoder else reference
    for layers in ("@0,1,2,3,last", "@1", "@2", "@3"):
        encoder = load("transformer", {"transformer": str(folder)}, layers)
        ids = encoder.prepare(TEXTS[0])
        with torch.no_grad():
            output = reference(input_ids=ids[None], output_hidden_states=True)
            found = encoder.forward_layers(Ragged.from_sequences([ids]))
        for layer, hidden in zip(encoder.layers, found, strict=True):
            expected = output.last_hidden_state if layer == "last" else output.hidden_states[layer]
            torch.testing.assert_close(hidden.values, expected[0], atol=2e-5, rtol=1e-5)
