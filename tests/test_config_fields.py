"""Config fields in a store's identity: every field that changes numbers, and no others."""

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_phobert, make_text_transformer, make_wave_transformer, make_whisper, wave

from features.encoders.base import load_all_blocks, weights_sha256
from features.encoders.config_fields import NUMERIC_FIELDS, config_identity
from features.encoders.selector import EncoderSettings, parse_selector

DEBERTA = {"conv_kernel_size": 3, "conv_act": "gelu"}
MAKERS: dict[str, Callable[[Path], Path]] = {
    "wav2vec2": lambda folder: make_wave_transformer(folder, "wav2vec2"),
    "hubert": lambda folder: make_wave_transformer(folder, "hubert"),
    "wavlm": lambda folder: make_wave_transformer(folder, "wavlm", num_buckets=8),
    "data2vec-audio": lambda folder: make_wave_transformer(folder, "data2vec"),
    "whisper": make_whisper,
    "bert": lambda folder: make_text_transformer(folder, "Bert"),
    "roberta": lambda folder: make_text_transformer(folder, "Roberta"),
    "xlm-roberta": lambda folder: make_text_transformer(folder, "XLMRoberta"),
    "deberta-v2": lambda folder: make_text_transformer(folder, "DebertaV2", **DEBERTA),
}
OTHER: dict[str, Any] = {
    "hidden_act": "relu",
    "feat_extract_activation": "relu",
    "activation_function": "relu",
    "conv_act": "relu",
    "layer_norm_eps": 0.1,
    "num_attention_heads": 2,
    "encoder_attention_heads": 2,
    "do_stable_layer_norm": False,
    "max_bucket_distance": 10,
    "is_decoder": True,
    "pad_token_id": 3,
    "max_position_embeddings": 40,
    "max_relative_positions": 30,
    "position_buckets": 12,
    "pos_att_type": ["c2p"],
}
"""Another value of each listed field."""

SIZES = {
    "hidden_size", "intermediate_size", "num_hidden_layers", "conv_dim", "conv_kernel", "conv_bias", "vocab_size",
    "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "feat_extract_norm", "feat_proj_layer_norm",
    "conv_pos_batch_norm", "conv_pos_kernel_size", "num_buckets", "adapter_attn_dim", "type_vocab_size",
    "max_position_embeddings", "position_biased_input", "relative_attention", "d_model", "encoder_layers",
    "encoder_ffn_dim", "num_mel_bins", "max_source_positions",
}  # fmt: skip
REFUSED = {"conv_stride", "add_adapter", "adapter_kernel_size", "adapter_stride", "num_adapter_layers",
           "output_hidden_size"}  # fmt: skip
"""Only one value of each is taken, or it says something of an adapter, which is refused."""
TRAINING = {
    "activation_dropout", "attention_dropout", "attention_probs_dropout_prob", "classifier_dropout", "dropout",
    "feat_proj_dropout", "feat_quantizer_dropout", "final_dropout", "hidden_dropout", "hidden_dropout_prob",
    "pooler_dropout", "layerdrop", "encoder_layerdrop", "decoder_layerdrop", "apply_spec_augment",
    "mask_feature_length", "mask_feature_min_masks", "mask_feature_prob", "mask_time_length", "mask_time_min_masks",
    "mask_time_prob", "initializer_range", "init_std", "contrastive_logits_temperature", "diversity_loss_weight",
    "ctc_loss_reduction", "ctc_zero_infinity", "num_negatives",
}  # fmt: skip
HEADS = {
    "classifier_proj_size", "codevector_dim", "num_codevector_groups", "num_codevectors_per_group",
    "proj_codevector_dim", "num_ctc_classes", "tdnn_dilation", "tdnn_dim", "tdnn_kernel", "xvector_output_dim",
    "use_weighted_layer_sum", "tie_word_embeddings", "use_cache", "add_cross_attention", "pooler_hidden_act", "legacy",
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_attention_heads", "decoder_ffn_dim", "decoder_layers",
    "decoder_start_token_id", "begin_suppress_tokens", "suppress_tokens", "max_target_positions", "median_filter_width",
    "scale_embedding",
}  # fmt: skip
"""Fields of heads, decoders and the tokenizer."""


def outputs(model: Any) -> torch.Tensor:
    """Return the hidden states of every layer, so that nothing hides behind the final norm."""
    model.eval()
    kind = model.config.model_type
    if kind == "whisper":
        samples = torch.linspace(-1, 1, 80 * 300).view(1, 80, 300)
        model = model.encoder
    elif kind in ("wav2vec2", "hubert", "wavlm", "data2vec-audio"):
        samples = torch.from_numpy(wave(0.7, 0))[None]
    else:
        samples = (torch.arange(24) % 17 + 4)[None]
    with torch.no_grad():
        return torch.stack(model(samples, output_hidden_states=True).hidden_states)


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind in NUMERIC_FIELDS for field in NUMERIC_FIELDS[kind]]
)
def test_each_listed_field_changes_the_outputs_or_the_shapes(kind: str, field: str, tmp_path: Path) -> None:
    import transformers

    model = transformers.AutoModel.from_pretrained(MAKERS[kind](tmp_path / "model"))
    config = copy.deepcopy(model.config)
    assert getattr(config, field) != OTHER[field]
    setattr(config, field, OTHER[field])
    assert config_identity(config) != config_identity(model.config)
    other = transformers.AutoModel.from_config(config)
    try:
        other.load_state_dict(model.state_dict())
    except RuntimeError:
        return  # other shapes have another hash
    assert (outputs(other) - outputs(model)).abs().max() > 1e-5


@pytest.mark.parametrize("kind", NUMERIC_FIELDS)
def test_every_field_of_the_library_is_known(kind: str) -> None:
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found = {field.name for field in fields(CONFIG_MAPPING[kind])} - {field.name for field in fields(PreTrainedConfig)}
    unknown = found - set(NUMERIC_FIELDS[kind]) - SIZES - REFUSED - TRAINING - HEADS
    assert not unknown, (
        f"transformers has new fields of {kind}: {sorted(unknown)}. Do they change the outputs of an encoder with the "
        "same weights? Then list them in NUMERIC_FIELDS and raise numerics_version, otherwise here."
    )


def test_every_general_field_of_the_library_is_known() -> None:
    from transformers import PreTrainedConfig

    known = {"architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder", "label2id",
             "output_hidden_states", "problem_type", "return_dict", "transformers_version"}  # fmt: skip
    unknown = {field.name for field in fields(PreTrainedConfig)} - known
    assert not unknown, f"transformers has new fields of every config: {sorted(unknown)}. Do they change outputs?"


ROUND_TRIPS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "wav2vec2": ("audio", MAKERS["wav2vec2"]),
    "hubert": ("audio", MAKERS["hubert"]),
    "wavlm": ("audio", MAKERS["wavlm"]),
    "data2vec": ("audio", MAKERS["data2vec-audio"]),
    "whisper": ("audio", make_whisper),
    "phobert": ("text", make_phobert),
    "videberta": ("text", MAKERS["deberta-v2"]),
    "transformer": ("text", lambda folder: make_text_transformer(folder, "ModernBert")),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_frozen_encoder_that_is_saved_and_loaded_keeps_its_identity(name: str, tmp_path: Path) -> None:
    modality, make = ROUND_TRIPS[name]
    settings = EncoderSettings(segmenter="none")
    first = load_all_blocks(parse_selector(f"{name}={make(tmp_path / 'model')}", modality), settings)
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    again = load_all_blocks(parse_selector(f"{name}={tmp_path / 'saved'}", modality), settings)
    assert again.config == first.config
    assert again.weights_sha256 == first.weights_sha256 == weights_sha256(again)
