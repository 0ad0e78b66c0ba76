"""The fields of a transformers config that belong to a store's identity: those that change numbers.

Sizes are left out: they show in the names and shapes of the weights, whose hash stands in the identity too.
"""

from __future__ import annotations

import json
from typing import Any

WAVEFORM = ("hidden_act", "feat_extract_activation", "layer_norm_eps", "num_attention_heads")
BERT = ("hidden_act", "layer_norm_eps", "num_attention_heads", "is_decoder")
NUMERIC_FIELDS: dict[str, tuple[str, ...]] = {
    "wav2vec2": (*WAVEFORM, "do_stable_layer_norm"),
    "hubert": (*WAVEFORM, "do_stable_layer_norm"),
    "wavlm": (*WAVEFORM, "do_stable_layer_norm", "max_bucket_distance"),
    "data2vec-audio": WAVEFORM,
    "whisper": ("activation_function", "encoder_attention_heads"),
    "bert": BERT,
    "roberta": (*BERT, "pad_token_id"),  # positions begin after it
    "xlm-roberta": (*BERT, "pad_token_id"),
    "deberta-v2": (
        "hidden_act", "layer_norm_eps", "num_attention_heads", "max_position_embeddings", "max_relative_positions",
        "position_buckets", "pos_att_type", "conv_act",
    ),
}  # fmt: skip
"""By model type, the fields that can change the outputs of the same weights. tests/test_config_fields.py tries each."""
NOTES = frozenset(
    {
        "_name_or_path", "_attn_implementation", "_attn_implementation_internal", "architectures", "dtype", "id2label",
        "label2id", "tokenizer_class", "torch_dtype", "transformers_version", "use_cache", "layerdrop",
        "gradient_checkpointing", "initializer_range", "name_or_path", "problem_type", "finetuning_task", "auto_map",
        "return_dict", "output_hidden_states", "output_attentions",
    }
)  # fmt: skip
"""Fields of any config that change nothing in eval mode."""


def config_identity(config: Any) -> dict[str, Any]:
    """Return what of a transformers config can change numbers.

    A model type without a list has every difference from its defaults but for `NOTES`, which may be too much: an
    unchanged model is then extracted again, never mistaken for another.
    """
    listed = NUMERIC_FIELDS.get(config.model_type)
    if listed is not None:
        kept = {name: getattr(config, name, None) for name in listed}
    else:
        fields: dict[str, Any] = config.to_diff_dict()
        kept = {key: value for key, value in fields.items() if key not in NOTES and "dropout" not in key}
    identity: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return identity
