"""Every encoder of the registries: an utterance's numbers are its own, and lengths follow their closed forms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import (
    make_phobert,
    make_text_transformer,
    make_vggish,
    make_videberta,
    make_wave_transformer,
    make_whisper,
    wave,
)

import features.encoders.whisper
import features.ragged
from features.encoders import AUDIO_ENCODERS, ENCODERS, TEXT_ENCODERS
from features.encoders.base import Encoder, load_encoder, weights_sha256
from features.encoders.mel import mel_filters
from features.encoders.selector import EncoderSettings, parse_selector, parse_selectors
from features.encoders.wav2vec2 import MaskedGroupNorm
from features.errors import InputError, UsageError
from features.ragged import Ragged, padding_mask

TOLERANCE = 2e-5
AUDIO_LENGTHS = (1, 399, 400, 401, 719, 720, 15_599, 15_600, 47_999, 48_000, 48_001, 60_123)
TEXTS = ("hôm nay trời đẹp", "", "ừ", "tôi không biết phải nói gì với anh ấy nữa", "supercalifragilisticexpialidocious")
MASKED = {"fourier2vec", "wav2vec2", "hubert", "wavlm", "phobert", "videberta", "transformer"}
"""Encoders whose layers see a padded view, so that taking the mask away must show."""


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    models = tmp_path_factory.mktemp("models")
    made = {kind: make_wave_transformer(models / kind, kind) for kind in ("wav2vec2", "hubert", "wavlm", "data2vec")}
    made["whisper"] = make_whisper(models / "tiny-whisper")
    made["vggish"] = make_vggish(models / "vggish")
    made["phobert"] = make_phobert(models / "phobert")
    made["videberta"] = made["transformer"] = make_videberta(models / "videberta")
    return {name: str(path) for name, path in made.items()}


def load(name: str, checkpoints: dict[str, str], layer: str = "", **settings: str) -> Encoder:
    modality = "audio" if name in AUDIO_ENCODERS else "text"
    model = f"={checkpoints[name]}" if name in checkpoints else ""
    return load_encoder(parse_selector(f"{name}{model}{layer}", modality), EncoderSettings(**settings))


def inputs(encoder: Encoder) -> list[torch.Tensor]:
    raw: list[Any] = list(TEXTS)
    if encoder.modality == "audio":
        raw = [wave(n / 16_000, n) for n in AUDIO_LENGTHS]
    return [encoder.prepare(item) for item in raw]


def differences(encoder: Encoder) -> list[float]:
    prepared = [item for item in inputs(encoder) if item.shape[0]]
    with torch.inference_mode():
        together = encoder(Ragged.from_sequences(prepared)).split()
        alone = [encoder(Ragged.from_sequences([item])).values for item in prepared]
    return [(a - b).abs().max().item() for a, b in zip(together, alone, strict=True)]


EVERY = [name for registry in ENCODERS.values() for name in registry]


@pytest.mark.parametrize("name", EVERY)
def test_alone_and_in_a_batch_are_equal(
    name: str, checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(name, checkpoints)
    assert max(differences(encoder)) <= TOLERANCE
    pad = Ragged.pad  # what attention sees in its padding may be anything
    monkeypatch.setattr(Ragged, "pad", lambda self, fill=1e4: pad(self, fill))
    assert max(differences(encoder)) <= TOLERANCE


@pytest.mark.parametrize("name", sorted(MASKED))
def test_negative_control_without_the_mask_they_differ(
    name: str, checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        features.ragged, "padding_mask", lambda lengths, size: torch.ones_like(padding_mask(lengths, size))
    )
    assert max(differences(load(name, checkpoints))) >= 1e-2


def test_whisper_is_itself_in_any_batch_at_every_layer(checkpoints: dict[str, str]) -> None:
    for layer in ("@0", "@2", "@3", "@last"):
        assert max(differences(load("whisper", checkpoints, layer))) <= 1e-6


@pytest.mark.parametrize("name", EVERY)
def test_lengths_follow_the_closed_form(name: str, checkpoints: dict[str, str]) -> None:
    encoder = load(name, checkpoints)
    prepared = [item for item in inputs(encoder) if item.shape[0]]
    with torch.inference_mode():
        output = encoder(Ragged.from_sequences(prepared))
    counts = [item.shape[0] for item in prepared]
    assert list(output.sizes) == [encoder.get_feat_lengths(count) for count in counts]
    assert output.lengths.tolist() == encoder.get_feat_lengths(torch.tensor(counts)).tolist()
    assert list(output.sizes) == encoder.get_feat_lengths(np.array(counts)).tolist()
    assert output.values.shape == (output.total, encoder.dim)
    assert output.values.dtype == torch.float32


AUDIO_LAWS: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(
        ("fourier2vec", "wav2vec2", "hubert", "wavlm", "data2vec"), lambda n: (max(n, 400) - 400) // 320 + 1
    ),
    "vggish": lambda n: 1 + -(-max(0, n - 15_600) // 15_360),
    "whisper": lambda n: -(-n // 320),
}


@pytest.mark.parametrize("name", AUDIO_ENCODERS)
def test_audio_lengths_are_those_of_the_documentation(name: str, checkpoints: dict[str, str]) -> None:
    encoder = load(name, checkpoints)
    for n in (*AUDIO_LENGTHS, *range(1, 3000, 37)):
        assert encoder.get_feat_lengths(n) == AUDIO_LAWS[name](n)


@pytest.mark.parametrize("name", EVERY)
def test_encoders_are_frozen_deterministic_and_described(name: str, checkpoints: dict[str, str]) -> None:
    state = torch.get_rng_state()
    first, second = load(name, checkpoints), load(name, checkpoints)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert first.weights_sha256 == second.weights_sha256
    assert first.name == name
    spec = {**TEXT_ENCODERS, **AUDIO_ENCODERS}[name]
    assert spec.licence and spec.needs and spec.description


def test_one_changed_weight_changes_the_hash(checkpoints: dict[str, str]) -> None:
    encoder = load("fourier2vec", checkpoints)
    before = weights_sha256(encoder)
    with torch.no_grad():
        next(encoder.parameters()).flatten()[0].add_(1e-6)
    assert weights_sha256(encoder) != before


def test_whisper_layers_are_the_hidden_states_of_the_library(checkpoints: dict[str, str]) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    reference = WhisperModel.from_pretrained(checkpoints["whisper"]).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoints["whisper"])
    samples = wave(1.1, 0)
    mel = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        output = reference.encoder(mel, output_hidden_states=True)
    rows = -(-len(samples) // 320)
    for layer in (0, 1, 2, 3, "last"):
        expected = output.last_hidden_state if layer == "last" else output.hidden_states[layer]
        encoder = load("whisper", checkpoints, f"@{layer}")
        found = encoder(Ragged.from_sequences([encoder.prepare(samples)])).values
        torch.testing.assert_close(found, expected[0, :rows], atol=1e-6, rtol=0)
    together = load("whisper", checkpoints, "@3,last").forward_layers(Ragged.from_sequences([torch.tensor(samples)]))
    assert torch.equal(together[0].values, together[1].values)
    assert load("whisper", checkpoints).layers == (2,)  # two thirds of three
    hashes = {load("whisper", checkpoints, layer).weights_sha256 for layer in ("@0", "@2", "@last")}
    assert len(hashes) == 1


def test_whisper_joins_windows_of_longer_audio(checkpoints: dict[str, str]) -> None:
    encoder = load("whisper", checkpoints, "@last")
    samples = wave(7.5, 3)  # 2.5 windows of 3 s
    whole = encoder(Ragged.from_sequences([encoder.prepare(samples)])).values
    pieces = [encoder(Ragged.from_sequences([encoder.prepare(samples[i : i + 48_000])])).values
              for i in range(0, len(samples), 48_000)]  # fmt: skip
    torch.testing.assert_close(whole, torch.cat(pieces), atol=1e-6, rtol=0)
    assert len(whole) == 375


def test_hashed_ngrams_give_the_mean_first_and_know_position_and_case() -> None:
    encoder = load("hashed_ngrams", {})

    def encode(text: str) -> torch.Tensor:
        return encoder(Ragged.from_sequences([encoder.prepare(text)])).values

    rows = encode("vui quá vui")
    torch.testing.assert_close(rows[0], rows[1:].mean(0))
    assert not torch.allclose(rows[1], rows[3])  # the same word at another place
    assert torch.equal(encode("VUI quá vui"), rows)
    assert torch.nn.functional.cosine_similarity(rows[1], rows[3], dim=0) > 0.9
    assert torch.nn.functional.cosine_similarity(rows[1], rows[2], dim=0) < 0.5


def test_fourier2vec_hears_prosody_not_loudness() -> None:
    encoder = load("fourier2vec", {})

    def encode(samples: np.ndarray[Any, Any]) -> torch.Tensor:
        return encoder(Ragged.from_sequences([encoder.prepare(samples)])).values

    soft = encode(wave(0.5, 1))
    assert (encode(wave(0.5, 1) * 4) - soft).abs().mean() < 0.05  # the floor under the logarithm leaves a trace
    assert (encode(wave(0.5, 1, pitch=300.0)) - soft).abs().mean() > 0.2


def test_random_weights_are_declared_and_not_read_from_the_note(tmp_path: Path) -> None:
    from features.encoders.layer_means import LayerMeans

    encoder = load("fourier2vec", {})
    encoder.weights_note = "edited"
    assert encoder.is_random and LayerMeans(encoder).is_random
    encoder.weights_note, encoder.is_random = "pretrained", False
    encoder.save(tmp_path)
    assert not load("fourier2vec", {"fourier2vec": str(tmp_path)}).is_random


def test_mel_filters_are_triangles_that_overlap_by_half() -> None:
    filters = mel_filters(80, 20.0, 7600.0)
    assert filters.shape == (257, 80)
    assert (filters >= 0).all() and (filters <= 1).all()
    inside = filters[5:230].sum(1)
    torch.testing.assert_close(inside, torch.ones_like(inside))


@pytest.mark.parametrize("name", ["fourier2vec", "hashed_ngrams"])
def test_own_checkpoints_load_equal(name: str, tmp_path: Path) -> None:
    from features.encoders.pretrained import save_native

    encoder = load(name, {})
    save_native(encoder, tmp_path / "copy")
    again = load(name, {name: str(tmp_path / "copy")})
    assert again.weights_sha256 == encoder.weights_sha256
    assert again.config == encoder.config
    assert again.is_random and again.model_name == encoder.model_name
    (tmp_path / "copy" / "config.json").write_text('{"encoder": "vggish"}')
    with pytest.raises(InputError, match="it is a checkpoint of vggish"):
        load(name, {name: str(tmp_path / "copy")})
    with pytest.raises(InputError, match="needs the files"):
        load(name, {name: str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "vggisch",
            "must name one of data2vec, fourier2vec, hubert, vggish, wav2vec2, wavlm, whisper, found 'vggisch'",
        ),
        ("hashed_ngrams", "is an encoder of text: --text-encoder"),
        ("whisper@middle", "must be numbers, 'last' or 'all', found 'middle'"),
        ("whisper@", "found ''"),
        ("whisper@1,1", "must be different"),
        ("whisper@all,2", "'all' alone"),
        ("=x", "NAME"),
        ("whisper+fourier2vec", "NAME"),
    ],
)
def test_bad_selectors_say_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("+", r"\+")):
        parse_selector(text, "audio")


def test_selectors_are_read_and_written() -> None:
    for text in (
        "whisper",
        "whisper=vinai/PhoWhisper-small@9",
        "whisper=/a/b=c@last",
        "whisper=../x",
        "whisper@0,3,last",
    ):
        assert str(parse_selector(text, "audio")) == text
    selector = parse_selector("whisper=/models/w@9", "audio")
    assert (selector.name, selector.model, selector.layers) == ("whisper", "/models/w", (9,))


def test_a_layer_beyond_the_last_is_refused(checkpoints: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"must be 0\.\.3 or 'last', found 4"):
        load("whisper", checkpoints, "@4")


def test_streams_are_joined_by_plus() -> None:
    def names(text: str) -> list[str]:
        return [str(selector) for selector in parse_selectors(text, "audio")]

    assert names("dual") == names("wav2vec2+vggish") == ["wav2vec2", "vggish"]
    assert names("wav2vec2=/a+b/c@3,5+vggish=/w") == ["wav2vec2=/a+b/c@3,5", "vggish=/w"]
    for text, message in [("whisper+whisper", "must differ"), ("whisper+vggish+hubert", "at most two")]:
        with pytest.raises(UsageError, match=message):
            parse_selectors(text, "audio")
    with pytest.raises(UsageError, match="takes one encoder"):
        parse_selectors("phobert+videberta", "text")


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
        for layer, rows in zip(encoder.layers, found, strict=True):
            expected = output.last_hidden_state if layer == "last" else output.hidden_states[layer]
            torch.testing.assert_close(rows.values, expected[0], atol=2e-5, rtol=0)


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
        for layer, rows in zip(encoder.layers, found, strict=True):
            expected = output.last_hidden_state if layer == "last" else output.hidden_states[layer]
            torch.testing.assert_close(rows.values, expected[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_group_norm_checkpoints_are_exact_too(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(kind, {kind: str(make_wave_transformer(tmp_path / kind, kind, group_norm=True))})
    assert max(differences(encoder)) <= TOLERANCE
    norm = torch.nn.GroupNorm(32, 32)
    monkeypatch.setattr(  # negative control: the library's norm over the padded axis
        "features.encoders.wav2vec2.MaskedGroupNorm.forward", lambda self, x: norm(x)
    )
    assert max(differences(encoder)) >= 1e-2


def load_hubert_with_batch_norm(folder: Path) -> Encoder:
    made = make_wave_transformer(folder, "hubert", group_norm=True, conv_pos_batch_norm=True)
    weights = load_file(made / "model.safetensors")
    rng = np.random.default_rng(0)
    for name in [name for name in weights if "batch_norm" in name and weights[name].ndim]:
        values = rng.uniform(0.5, 2.0, weights[name].shape)  # those of a fresh norm would turn zeros into zeros
        weights[name] = torch.from_numpy(values.astype(np.float32))
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    return load("hubert", {"hubert": str(made)})


def test_hubert_with_batch_norm_before_its_positions_is_exact_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_hubert_with_batch_norm(tmp_path / "hubert")
    assert max(differences(encoder)) <= TOLERANCE
    pad = Ragged.pad
    monkeypatch.setattr(Ragged, "pad", lambda self, fill=float("nan"): pad(self, fill))
    assert max(differences(encoder)) <= TOLERANCE
    monkeypatch.undo()
    names = set(encoder.state_dict())
    assert {f"model.encoder.pos_conv_embed.batch_norm.{name}" for name in ("weight", "bias", "running_var")} <= names
    positions: Any = encoder.model.encoder.pos_conv_embed  # type: ignore[union-attr]
    norm = torch.nn.BatchNorm1d(32).eval()
    norm.load_state_dict(positions.batch_norm.state_dict())
    positions.batch_norm = norm  # negative control: the library's norm, whose bias fills the padding
    assert max(differences(encoder)) >= 1e-2


def test_training_leaves_the_statistics_of_the_batch_norm_alone(tmp_path: Path) -> None:
    encoder = load_hubert_with_batch_norm(tmp_path / "hubert")
    prepared = Ragged.from_sequences(inputs(encoder))
    expected = encoder(prepared).values
    encoder.get_submodule("model.encoder.pos_conv_embed").train()  # no dropout in there
    torch.testing.assert_close(encoder(prepared).values, expected, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_group_norm_of_half_precision_counts_and_sums_in_fp32(dtype: torch.dtype) -> None:
    length = 70_000  # 22 minutes of audio are more frames than fp16 can count
    x = (torch.randn(2, 4, length, generator=torch.Generator().manual_seed(0)) + 3.0).to(dtype)
    plain = torch.nn.GroupNorm(4, 4)
    norm = MaskedGroupNorm(plain)
    norm.lengths = torch.tensor([length, length - 100])
    with torch.no_grad():
        found = norm(x)
        expected = [plain(x[:1].float())[0], plain(x[1:, :, :-100].float())[0]]
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1, :, :-100], expected[1], atol=1e-4, rtol=1e-4)
    assert norm.to(dtype)(x).dtype == dtype


def test_trimmed_whisper_is_itself_in_any_batch(checkpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load("whisper", checkpoints, "@all", whisper_mode="trimmed")
    assert max(differences(encoder)) <= TOLERANCE
    whole = load("whisper", checkpoints, "@all")
    assert encoder.config != whole.config
    for module in (features.ragged, features.encoders.whisper):
        monkeypatch.setattr(module, "padding_mask", lambda n, size: torch.ones_like(padding_mask(n, size)))
    assert max(differences(encoder)) >= 1e-2


def test_a_checkpoint_of_another_type_is_refused(checkpoints: dict[str, str]) -> None:
    for name, other in [("hubert", "wav2vec2"), ("wav2vec2", "whisper"), ("phobert", "videberta")]:
        with pytest.raises(InputError, match="must say model_type"):
            load(name, {name: checkpoints[other]})


def test_settings_reach_the_encoders_that_know_them() -> None:
    whisper, phobert = parse_selector("whisper", "audio"), parse_selector("phobert", "text")
    settings = EncoderSettings(segmenter="none", whisper_mode="trimmed")
    settings.check([whisper, phobert])
    assert settings.only(whisper.spec.settings) == EncoderSettings(whisper_mode="trimmed")
    with pytest.raises(UsageError, match="--segmenter changes nothing of whisper"):
        settings.check([whisper])
