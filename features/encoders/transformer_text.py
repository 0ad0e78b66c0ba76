"""Text encoders in the Hugging Face format: PhoBERT, ViDeBERTa, language models and others.

They return one feature vector per token, [CLS] first if there is one. Nguyen and Nguyen 2020 (arXiv
2003.00744), Tran et al. 2023 (2301.10439).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from unicodedata import unidata_version

import torch
from torch import Tensor, nn

from features.audio.torchaudio_import import import_torchaudio
from features.device import exact_fp32
from features.encoders.base import Encoder, Lengths, blocks_needed, capture_hidden_states, forward_each, resolve_layers
from features.encoders.batch_probe import depends_on_batch, mismatched_layers, probe_tokens
from features.encoders.checkpoint_files import require_files
from features.encoders.config_fields import (
    CAUSAL,
    NUMERIC_FIELDS,
    config_identity,
    max_tokens,
    tokenizer_settings,
    tokenizer_sha256,
)
from features.encoders.language_models import is_causal, readable_token, truncate_causal
from features.encoders.pretrained import (
    check_config,
    checkpoint_location,
    describe_model,
    load_model,
    loading_errors,
    save_weights,
)
from features.encoders.selector import EncoderSettings, Layer, Selector
from features.encoders.transcript_tokens import TranscriptCounter, TranscriptTokens
from features.environment import package_version
from features.errors import InputError
from features.ragged import Ragged
from features.text.normalize import TokenCounts
from features.text.segmenters import segmenter_sha256

TOKENIZING = ("transformers", "tokenizers", "sentencepiece", "underthesea_core", "python-crfsuite", "sklearn-crfsuite")
"""Packages whose code decides the words and tokens of a transcript, besides the segmenters."""
MIN_VOCABULARY = 16
"""Minimum number of tokens, besides special ones, in a real vocabulary."""


class TextTransformer(Encoder):
    """A Transformer over subword tokens; padded keys are masked.

    Layer k is `hidden_states[k]` of transformers; the top one is the model's output, and so equals
    "last".

    A transcript with more tokens than the model has positions is truncated: it keeps its first
    tokens and the final special token, if it ends with one.
    """

    modality: ClassVar[str] = "text"
    numerics_version: ClassVar[int] = 3
    model_type: ClassVar[str | None] = None
    """Required model_type of a checkpoint; None: any."""
    tokenizer_class: ClassVar[str] = "AutoTokenizer"
    tokenizer_files: ClassVar[tuple[str, ...]] = ()
    """Files that a local folder must contain."""
    default_segmenter: ClassVar[str] = "none"
    default_tone_style: ClassVar[str] = "keep"
    lora_targets: ClassVar[tuple[str, ...]] = (
        "query", "value", "query_proj", "value_proj", "q_lin", "v_lin", "q_proj", "v_proj",
    )  # fmt: skip

    model: Any
    from_encoder_decoder: bool = False
    """Whether it is the encoder of an encoder-decoder, which cannot be saved."""
    one_at_a_time: bool = False
    """Whether each sequence is encoded alone, because the architecture does not mask all
    padding."""

    def __init__(self, model: Any, tokenizer: Any, layers: tuple[Layer, ...], settings: EncoderSettings) -> None:
        super().__init__()
        # a tuple: as an attribute, the module would be registered twice
        self._blocks_location = _find_blocks(model)
        self.num_layers = len(self.blocks)
        self.layers = layers
        self.dim = int(model.config.hidden_size)
        self.tokenizer = tokenizer
        self.max_length = max_tokens(model.config, tokenizer)
        self._transcripts = TranscriptTokens(
            tokenizer, settings.segmenter or self.default_segmenter, settings.tone_style or self.default_tone_style
        )
        self.config = {
            "model": config_identity(model.config),
            "tokenizer_sha256": tokenizer_sha256(tokenizer),
            "segmenter": self._transcripts.segmenter,
            "tone_style": self._transcripts.tone_style,
            "longest": self.max_length,
        }
        self.model = model

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> TextTransformer:
        """Load a checkpoint (hub id or folder) in float32."""
        import_torchaudio()  # before transformers, which imports torchaudio and could fail
        import transformers

        location = checkpoint_location(selector)
        check_config(selector, location, cls.model_type)
        require_files(selector, location, cls.tokenizer_files)
        with loading_errors(selector, location):
            tokenizer_class = getattr(transformers, cls.tokenizer_class)
            tokenizer = tokenizer_class.from_pretrained(location, trust_remote_code=False)
        unused = ("pooler.", "decoder.")
        model: Any = load_model(selector, location, transformers.AutoModel, "", unused)
        if not hasattr(model.config, "num_hidden_layers"):  # such as the config of a text and an image model
            raise InputError(f"{selector.flag}: {location} must hold a text model, found {type(model).__name__}")
        from_encoder_decoder = bool(model.config.is_encoder_decoder)
        if from_encoder_decoder:
            model = model.get_encoder()
        # the pooler returns a sentence vector, and is random in many checkpoints
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        if len(tokenizer) > model.config.vocab_size:
            raise InputError(
                f"{selector.flag}: the tokenizer must fit the model, found {len(tokenizer)} tokens "
                f"for {model.config.vocab_size} embeddings in {location}"
            )
        # without any files, transformers silently creates a tokenizer of special tokens only
        if len(tokenizer) - len(set(tokenizer.all_special_ids)) < MIN_VOCABULARY:
            raise InputError(f"{selector.flag}: {location} must hold the tokenizer's vocabulary, found none")
        encoder = cls(model, tokenizer, resolve_layers(selector, model.config.num_hidden_layers), settings)
        encoder.from_encoder_decoder = from_encoder_decoder
        encoder.model_name, encoder.weights_note = describe_model(selector)
        return encoder

    def drop_unused_blocks(self) -> None:
        """Drop the blocks above the requested layers."""
        owner, name = self._blocks_location
        setattr(owner, name, self.blocks[: blocks_needed(self.layers, self.num_layers)])

    def save(self, folder: Path) -> None:
        """Write a folder that `load` can read; InputError for the encoder of an encoder-decoder."""
        if self.from_encoder_decoder:
            raise InputError(f"{self.model_name} is the encoder of an encoder-decoder, which cannot be fine-tuned")
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_weights(folder, self.model.state_dict())

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the Transformer blocks."""
        return list(self.blocks)

    @property
    def blocks(self) -> Any:
        """The ModuleList of Transformer blocks."""
        owner, name = self._blocks_location
        return getattr(owner, name)

    def words(self, text: str) -> str:
        """Return a normalized transcript as this encoder reads it: segmented, in its tone style."""
        return self._transcripts.words(text)

    def tokens(self, text: str) -> list[int]:
        """Return all token ids of a normalized transcript, including special tokens."""
        return self._transcripts.tokens(text)

    @property
    def transcript_counter(self) -> TranscriptCounter:
        """The counter of tokens that works without the encoder."""
        return TranscriptCounter(self._transcripts, self.max_length)

    @property
    def tokenization(self) -> dict[str, Any]:
        """Everything that decides the tokens of a transcript: settings, files and versions."""
        return {
            **{name: self.config[name] for name in ("segmenter", "tone_style", "longest")},
            **tokenizer_settings(self.tokenizer),
            "segmenter_sha256": segmenter_sha256(self.config["segmenter"].split()[0]),
            "numerics_version": self.numerics_version,
            "versions": {name: package_version(name) for name in TOKENIZING} | {"unicode": unidata_version},
        }

    def count_tokens(self, transcripts: Iterable[str]) -> TokenCounts:
        """Count tokens and words of normalized transcripts, and those in the vocabulary."""
        return self._transcripts.count(transcripts)

    def is_truncated(self, raw: Any) -> bool:
        """Tell whether a transcript has more tokens than the model has positions."""
        return bool(raw) and len(self.tokens(raw)) > self.max_length

    def prepare(self, raw: Any) -> Tensor:
        """Return the token ids int64 (T,) of a normalized transcript; T = 0 for an empty one."""
        ids = self.tokens(raw) if raw else []
        if len(ids) > self.max_length and self.causal:
            ids = truncate_causal(ids, self.max_length, self.tokenizer.all_special_ids)
        elif len(ids) > self.max_length:
            ids = ids[: self.max_length - 1] + ids[-1:]
        return torch.tensor(ids, dtype=torch.int64)

    def token_texts(self, transcript: str) -> list[str]:
        """Return the text of each token that `prepare` returns."""
        texts: list[str] = self.tokenizer.convert_ids_to_tokens(self.prepare(transcript).tolist())
        return [readable_token(self.tokenizer, text) for text in texts] if self.causal else texts

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return the same lengths: one feature vector per token."""
        return lengths

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode token ids (sum T,) int64 into (sum T, D) of each layer."""
        if self.one_at_a_time and inputs.batch_size > 1:
            return forward_each(self.forward_layers, inputs)
        padding = self.tokenizer.pad_token_id or 0
        # DeBERTa's convolution changes the first block's output before the second block reads it
        convolution = getattr(self._blocks_location[0], "conv", None)
        with capture_hidden_states(self.blocks, self.layers, convolution) as states:
            output = self.model(input_ids=inputs.pad(padding), attention_mask=inputs.mask.long())
            states["last"] = states[self.num_layers] = output.last_hidden_state
        return [inputs.pack(states[layer]) for layer in self.layers]


class PhoBert(TextTransformer):
    """PhoBERT, over segmented words with new-style tone marks, as in its training data."""

    name: ClassVar[str] = "phobert"
    model_type: ClassVar[str | None] = "roberta"
    tokenizer_class: ClassVar[str] = "PhobertTokenizer"  # whatever the folder's config says
    tokenizer_files: ClassVar[tuple[str, ...]] = ("vocab.txt", "bpe.codes")
    default_segmenter: ClassVar[str] = "pyvi"
    default_tone_style: ClassVar[str] = "new"


class ViDeBerta(TextTransformer):
    """ViDeBERTa, over words segmented by pyvi, as its authors used it."""

    name: ClassVar[str] = "videberta"
    model_type: ClassVar[str | None] = "deberta-v2"
    default_segmenter: ClassVar[str] = "pyvi"


class AnyTransformer(TextTransformer):
    """Any other text model of the Hugging Face hub, or the encoder of an encoder-decoder.

    Untested architectures are checked when they are loaded. If features depend on the batch (XLNet,
    FNet, ConvBERT), sequences are encoded one at a time. Layers that do not equal
    `hidden_states[k]` are refused. Decoder-only models (Qwen2, Llama, Gemma) are recognized by
    their causal attention: no token attends to the padding, which follows.
    """

    name: ClassVar[str] = "transformer"

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> TextTransformer:
        """Load a checkpoint and check it; InputError for a layer that is not a hidden state."""
        encoder = super().load(selector, settings).eval()
        if encoder.model.config.model_type in NUMERIC_FIELDS:
            return encoder
        sequences = probe_tokens(encoder.model.config.vocab_size, encoder.max_length)
        with loading_errors(selector, checkpoint_location(selector)), torch.inference_mode(), exact_fp32():
            encoder.causal = is_causal(encoder.model, sequences[-1])
            if encoder.causal:
                encoder.model.config.use_cache = False  # keys and values are kept for generation only
            encoder.one_at_a_time = depends_on_batch(encoder.forward_layers, sequences)
            outputs = encoder.forward_layers(Ragged.from_sequences(sequences[:1]))
            numbered: dict[int, Tensor] = {}
            for layer, output in zip(encoder.layers, outputs, strict=True):
                if isinstance(layer, int):
                    numbered[layer] = output.values
            mismatched = mismatched_layers(encoder.model, numbered, sequences[0])
        if mismatched:
            found = f"{', '.join(map(str, mismatched))} of {encoder.model.config.model_type}"
            raise InputError(f"{selector.flag}: layers must be hidden states of the model, {found} are not: use 'last'")
        if encoder.one_at_a_time:
            encoder.config["one_at_a_time"] = True
        if encoder.causal:
            encoder.config[CAUSAL] = True
        return encoder


def _find_blocks(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the module that holds the list of blocks, and the list's name in it."""
    count = model.config.num_hidden_layers  # type: ignore[union-attr]
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    raise InputError(f"a text encoder must hold a list of {count} blocks, found none in {type(model).__name__}")
