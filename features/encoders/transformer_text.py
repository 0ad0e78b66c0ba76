"""Text encoders in the Hugging Face layout: PhoBERT, ViDeBERTa, and any other; one row a token, [CLS] first.

Nguyen and Nguyen 2020 (arXiv 2003.00744), Tran et al. 2023 (2301.10439).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from features.audio.torchaudio_import import import_torchaudio
from features.device import exact_fp32
from features.encoders.base import Encoder, Lengths, blocks_needed, captured, resolve_layers
from features.encoders.batch_probe import depends_on_batch, probe_tokens, wrong_layers
from features.encoders.checkpoint_files import require_files
from features.encoders.config_fields import NUMERIC_FIELDS, config_identity
from features.encoders.pretrained import (
    checkpoint_location,
    describe_model,
    explained,
    load_complete,
    read_config,
    save_weights,
)
from features.encoders.selector import EncoderSettings, Layer, Selector
from features.errors import InputError
from features.ragged import Ragged
from features.text.normalize import TokenCounts, apply_tone_style, is_segmented
from features.text.segmenters import load_segmenter

FEWEST = 16
"""Tokens besides the special ones that a real vocabulary has."""
LONGEST = 512
"""Tokens, where neither the tokenizer nor the model says."""
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text")
"""Model types whose positions begin after the padding id: they have that many fewer."""


class TextTransformer(Encoder):
    """A Transformer over subword tokens; padded keys are masked.

    Layer k is `hidden_states[k]` of transformers: the top one is the model's output, as "last" is.

    A transcript of more tokens than the model has positions keeps its first ones and the final special token, and is
    counted as truncated.
    """

    modality: ClassVar[str] = "text"
    numerics_version: ClassVar[int] = 3
    model_type: ClassVar[str | None] = None
    """Of the checkpoints it takes; None: any."""
    tokenizer_class: ClassVar[str] = "AutoTokenizer"
    tokenizer_files: ClassVar[tuple[str, ...]] = ()
    """Files that a folder must hold for it."""
    default_segmenter: ClassVar[str] = "none"
    default_tone_style: ClassVar[str] = "keep"
    lora_targets: ClassVar[tuple[str, ...]] = (
        "query", "value", "query_proj", "value_proj", "q_lin", "v_lin", "q_proj", "v_proj",
    )  # fmt: skip

    model: Any
    is_half: bool = False
    """Whether it is the encoder of an encoder-decoder."""
    one_at_a_time: bool = False
    """Whether sequences are encoded alone: the architecture does not mask padding everywhere."""

    def __init__(self, model: Any, tokenizer: Any, layers: tuple[Layer, ...], settings: EncoderSettings) -> None:
        super().__init__()
        self._place = _find_blocks(model)
        self.num_layers = len(self.blocks)
        self.layers = layers
        self.dim = int(model.config.hidden_size)
        self.tokenizer = tokenizer
        self.longest = _longest(model.config, tokenizer)
        self.segment, segmenter = load_segmenter(settings.segmenter or self.default_segmenter)
        self.tone_style = settings.tone_style or self.default_tone_style
        self.config = {
            "model": config_identity(model.config),
            "tokenizer_sha256": tokenizer_sha256(tokenizer),
            "segmenter": segmenter,
            "tone_style": self.tone_style,
            "longest": self.longest,
        }
        self.model = model
        self._words: dict[str, str] = {}
        self._tokens: dict[str, list[int]] = {}

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> TextTransformer:
        """Load a checkpoint (hub id or folder) in float32."""
        import_torchaudio()  # transformers imports it too, and would fail where the plain import does
        import transformers

        location = checkpoint_location(selector)
        read_config(selector, location, cls.model_type)
        require_files(selector, location, cls.tokenizer_files)
        with explained(selector, location):
            tokenizer_class = getattr(transformers, cls.tokenizer_class)
            tokenizer = tokenizer_class.from_pretrained(location, trust_remote_code=False)
        model: Any = load_complete(selector, location, transformers.AutoModel, "", ("pooler.", "decoder."))
        if cls.model_type is not None and model.config.model_type != cls.model_type:
            raise InputError(
                f"{selector.flag}: must be a checkpoint of {cls.model_type}, found {model.config.model_type}"
            )
        half = bool(model.config.is_encoder_decoder)
        if half:
            model = model.get_encoder()
        if getattr(model, "pooler", None) is not None:  # a sentence vector, not a sequence; random in many checkpoints
            model.pooler = None
        if len(tokenizer) > model.config.vocab_size:
            raise InputError(
                f"{selector.flag}: the tokenizer must fit the model, found {len(tokenizer)} tokens for "
                f"{model.config.vocab_size} embeddings in {location}"
            )
        if len(tokenizer) - len(set(tokenizer.all_special_ids)) < FEWEST:  # transformers makes one of no files
            raise InputError(f"{selector.flag}: {location} must hold the tokenizer's vocabulary, found none")
        encoder = cls(model, tokenizer, resolve_layers(selector, model.config.num_hidden_layers), settings)
        encoder.is_half = half
        encoder.model_name, encoder.weights_note = describe_model(selector)
        return encoder

    def drop_unused(self) -> None:
        """Cut the blocks above the layers wanted."""
        owner, name = self._place
        setattr(owner, name, self.blocks[: blocks_needed(self.layers, self.num_layers)])

    def save(self, folder: Path) -> None:
        """Write a folder that `load` takes; InputError for half of an encoder-decoder."""
        if self.is_half:
            raise InputError(f"{self.model_name} is the encoder of an encoder-decoder, which cannot be fine-tuned")
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_weights(folder, self.model.state_dict())

    def get_blocks(self) -> Sequence[nn.Module]:
        """Return the Transformer's blocks."""
        return list(self.blocks)

    @property
    def blocks(self) -> Any:
        """The list of blocks."""
        owner, name = self._place
        return getattr(owner, name)

    def words(self, text: str) -> str:
        """Return a normalised transcript as this encoder reads it: its words joined by `_`, its tone marks restyled."""
        if text not in self._words:
            styled = apply_tone_style(text, self.tone_style)  # both styles are then segmented alike
            segmented = styled if is_segmented(text) else self.segment(styled)
            self._words[text] = apply_tone_style(segmented, self.tone_style)  # underthesea rewrites new to old
        return self._words[text]

    def tokens(self, text: str) -> list[int]:
        """Return all token ids of a normalised transcript, special tokens included."""
        if text not in self._tokens:
            self._tokens[text] = list(self.tokenizer(self.words(text), truncation=False, verbose=False)["input_ids"])
        return self._tokens[text]

    def count_tokens(self, transcripts: Iterable[str]) -> TokenCounts:
        """Count tokens and words of normalised transcripts, and how many of them the vocabulary knows."""
        texts = [text for text in transcripts if text]
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        ids = [token for text in texts for token in self.tokens(text) if token not in special]
        words = Counter(word for text in texts for word in self.words(text).split())
        single = sum(count for word, count in words.items() if self._is_single_token(word))
        segments = self.config["segmenter"] != "none"
        return TokenCounts(
            tokens=len(ids),
            unknown=ids.count(self.tokenizer.unk_token_id),
            words=words.total(),
            single_token=single,
            segmented=sum(map(is_segmented, texts)) if segments else 0,
        )

    def _is_single_token(self, word: str) -> bool:
        ids = self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(word))
        return len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id

    def is_truncated(self, raw: Any) -> bool:
        """Tell whether a transcript has more tokens than the model has positions."""
        return bool(raw) and len(self.tokens(raw)) > self.longest

    def prepare(self, raw: Any) -> Tensor:
        """Return token ids int64 (T,) of a normalised transcript; none for an empty one."""
        ids = self.tokens(raw) if raw else []
        if len(ids) > self.longest:
            ids = ids[: self.longest - 1] + ids[-1:]
        return torch.tensor(ids, dtype=torch.int64)

    def get_feat_lengths(self, lengths: Lengths) -> Lengths:
        """Return one row a token."""
        return lengths

    def forward_layers(self, inputs: Ragged) -> list[Ragged]:
        """Encode token ids (sum T,) int64 into (sum T, D) of each layer."""
        if self.one_at_a_time and inputs.batch_size > 1:
            alone = [self.forward_layers(Ragged.from_sequences([tokens])) for tokens in inputs.split()]
            return [Ragged.from_sequences([one.values for one in layer]) for layer in zip(*alone, strict=True)]
        padding = self.tokenizer.pad_token_id or 0
        convolution = getattr(self._place[0], "conv", None)  # DeBERTa's, which adds to the first block's output
        with captured(self.blocks, self.layers, convolution) as states:
            output = self.model(input_ids=inputs.pad(padding), attention_mask=inputs.mask.long())
            states["last"] = states[self.num_layers] = output.last_hidden_state
        return [inputs.pack(states[layer]) for layer in self.layers]


class PhoBert(TextTransformer):
    """PhoBERT, over segmented words with new-style tone marks: VnCoreNLP, with which it was trained, writes both.

    Its tokenizer is loaded by its own class, whatever the folder says.
    """

    name: ClassVar[str] = "phobert"
    model_type: ClassVar[str | None] = "roberta"
    tokenizer_class: ClassVar[str] = "PhobertTokenizer"
    tokenizer_files: ClassVar[tuple[str, ...]] = ("vocab.txt", "bpe.codes")
    default_segmenter: ClassVar[str] = "pyvi"
    default_tone_style: ClassVar[str] = "new"


class ViDeBerta(TextTransformer):
    """ViDeBERTa, over words segmented by pyvi, as its authors did."""

    name: ClassVar[str] = "videberta"
    model_type: ClassVar[str | None] = "deberta-v2"
    default_segmenter: ClassVar[str] = "pyvi"


class AnyTransformer(TextTransformer):
    """Any other text encoder of the Hugging Face hub; of an encoder-decoder the encoder.

    Architectures without tests of their own are tried when they are loaded: where features depend on the batch (XLNet,
    FNet, ConvBERT, ...), sequences are encoded one at a time; layers that are not `hidden_states[k]` are refused.
    """

    name: ClassVar[str] = "transformer"

    @classmethod
    def load(cls, selector: Selector, settings: EncoderSettings) -> TextTransformer:
        """Load a checkpoint and try it; InputError for numbered layers that the architecture does not have."""
        encoder = super().load(selector, settings).eval()
        if encoder.model.config.model_type in NUMERIC_FIELDS:
            return encoder
        sequences = probe_tokens(encoder.model.config.vocab_size, encoder.longest)
        with explained(selector, checkpoint_location(selector)), torch.inference_mode(), exact_fp32():
            encoder.one_at_a_time = depends_on_batch(encoder.forward_layers, sequences)
            numbered = [layer for layer in encoder.layers if isinstance(layer, int)]
            alone = encoder.forward_layers(Ragged.from_sequences(sequences[:1]))
            states = [state.values for layer, state in zip(encoder.layers, alone, strict=True) if layer in numbered]
            wrong = wrong_layers(encoder.model, numbered, states, sequences[0]) if numbered else []
        if wrong:
            found = f"{', '.join(map(str, wrong))} of {encoder.model.config.model_type}"
            raise InputError(
                f"{selector.flag}: layers must be hidden states of the model, {found} are not: give 'last'"
            )
        if encoder.one_at_a_time:
            encoder.config["one_at_a_time"] = True
        return encoder


def _find_blocks(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the module that holds the list of blocks, and the list's name in it."""
    count = model.config.num_hidden_layers  # type: ignore[union-attr]
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return module, name
    raise InputError(f"a text encoder must hold a list of {count} blocks, found none in {type(model).__name__}")


def _longest(config: Any, tokenizer: Any) -> int:
    """Return how many tokens the model can take."""
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    if positions < 1:  # XLNet says -1: it has no limit
        positions = LONGEST
    if config.model_type in POSITIONS_AFTER_PADDING:
        positions -= config.pad_token_id + 1
    return min(int(positions), int(min(tokenizer.model_max_length, 1 << 20)))


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash everything that turns text into ids: vocabulary, merges, normalisation, special tokens."""
    parts: dict[str, Any] = {"class": type(tokenizer).__name__, "special": str(tokenizer.special_tokens_map)}
    if tokenizer.is_fast:
        parts["backend"] = json.loads(tokenizer.backend_tokenizer.to_str())
    else:
        parts["vocabulary"] = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        parts["merges"] = [
            [*map(str, pair), rank] for pair, rank in sorted(getattr(tokenizer, "bpe_ranks", {}).items())
        ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
