"""Identity of a transformers model besides its weights: fields of its config, and its tokenizer.

Only fields that change the numbers are listed. Sizes are not: they determine the names and shapes
of the weights, whose hash is part of the identity too.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

CAUSAL = "causal"
"""Key in the config of a decoder-only text model, and so in the identity of its stores."""
CODE = "code_sha256"
"""Key of the file's hash in the config of a custom encoder, and in the identity of its stores."""
PLACES = ("name_or_path", "vocab_file", "merges_file", "tokenizer_file", "spm_file")
"""Options of a tokenizer that say where its files are."""
DEFAULT_MAX_LENGTH = 512
"""Maximum number of tokens if neither the tokenizer nor the model declares one."""
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text")
"""Model types whose position ids start after the padding id, which leaves fewer positions."""
WAVEFORM = ("hidden_act", "feat_extract_activation", "layer_norm_eps", "num_attention_heads")
"""Fields of the wav2vec 2.0 family."""
BERT = ("hidden_act", "layer_norm_eps", "num_attention_heads", "is_decoder")
"""Fields of the BERT family."""
NUMERIC_FIELDS: dict[str, tuple[str, ...]] = {
    "wav2vec2": (*WAVEFORM, "do_stable_layer_norm"),
    "hubert": (*WAVEFORM, "do_stable_layer_norm"),
    "wavlm": (*WAVEFORM, "do_stable_layer_norm", "max_bucket_distance"),
    "data2vec-audio": WAVEFORM,
    "whisper": ("activation_function", "encoder_attention_heads"),
    "bert": BERT,
    "roberta": (*BERT, "pad_token_id"),  # position ids start after it
    "xlm-roberta": (*BERT, "pad_token_id"),
    "deberta-v2": (
        "hidden_act", "layer_norm_eps", "num_attention_heads", "max_position_embeddings",
        "max_relative_positions", "position_buckets", "pos_att_type", "conv_act",
    ),
}  # fmt: skip
"""model_type -> fields that can change the output of the same weights; tests/test_config_fields.py
tests each."""
IRRELEVANT = frozenset(
    {
        "_name_or_path", "_attn_implementation", "_attn_implementation_internal", "architectures",
        "dtype", "id2label", "label2id", "tokenizer_class", "torch_dtype", "transformers_version",
        "use_cache", "layerdrop", "gradient_checkpointing", "initializer_range", "name_or_path",
        "problem_type", "finetuning_task", "auto_map", "return_dict", "output_hidden_states",
        "output_attentions",
    }
)  # fmt: skip
"""Fields of any config that do not change the output in eval mode."""


def config_identity(config: Any) -> dict[str, Any]:
    """Return the fields of a transformers config that can change the numbers.

    For a model type that is not listed, these are all fields that differ from their defaults,
    except `IRRELEVANT`. That may be too many: then an unchanged model is extracted again, but two
    models are never confused.
    """
    fields: dict[str, Any] = {}
    listed = NUMERIC_FIELDS.get(config.model_type)
    if listed is not None:
        for name in listed:
            fields[name] = getattr(config, name, None)
    else:
        fields = config.to_diff_dict()
        for name in list(fields):
            if name in IRRELEVANT or "dropout" in name:
                del fields[name]
    identity: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    return identity


def max_tokens(config: Any, tokenizer: Any) -> int:
    """Return the maximum number of tokens that a text model reads."""
    positions = getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    if positions < 1:  # XLNet has -1, for no limit
        positions = DEFAULT_MAX_LENGTH
    if config.model_type in POSITIONS_AFTER_PADDING:
        positions -= config.pad_token_id + 1
    return min(int(positions), int(min(tokenizer.model_max_length, 1 << 20)))


def tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    """Return everything that decides the tokens of a text, besides the code.

    More than `tokenizer_sha256`, which is in the identity of stores and cannot change.
    """
    options = {name: value for name, value in tokenizer.init_kwargs.items() if name not in PLACES}
    return {
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "options": hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest(),
        "special_ids": sorted(set(tokenizer.all_special_ids)),
        "unknown_id": tokenizer.unk_token_id,
        "splits_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
    }


def tokenizer_sha256(tokenizer: Any) -> str:
    """Return the SHA-256 of everything that converts text to ids.

    This is the vocabulary, the merges, the normalization and the special tokens.
    """
    special = str(tokenizer.special_tokens_map)
    parts: dict[str, Any] = {"class": type(tokenizer).__name__, "special": special}
    if tokenizer.is_fast:
        parts["backend"] = json.loads(tokenizer.backend_tokenizer.to_str())
    else:
        parts["vocabulary"] = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        ranks: dict[tuple[str, str], int] = getattr(tokenizer, "bpe_ranks", {})
        parts["merges"] = [[*map(str, pair), rank] for pair, rank in sorted(ranks.items())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
