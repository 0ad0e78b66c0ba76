"""Tiny data and checkpoints in the real formats, for the tests."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from features.progress import Silent

RATE = 16_000
AUDIO_SIZES = {"dim": 32, "heads": 2, "position_kernel": 7, "position_groups": 4}
TEXT_SIZES = {"dim": 32, "buckets": 512}
"""Narrow layers of fourier2vec and hashed_ngrams. Their number stays: pages and tests name layers."""


class Recorder(Silent):
    """Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.epochs: list[Mapping[str, Any]] = []

    def say(self, text: str) -> None:
        """Keep a message."""
        self.lines.append(text)

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Keep the history entry of an epoch."""
        self.epochs.append(entry)


def wave(seconds: float, seed: int, rate: int = RATE, pitch: float = 180.0) -> np.ndarray[Any, Any]:
    """Return a noisy tone (S,) float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


class Messages(Silent):
    """Reporter that keeps its messages in a list."""

    def __init__(self, said: list[str] | None = None) -> None:
        self.said = [] if said is None else said

    def say(self, text: str) -> None:
        """Keep the message."""
        self.said.append(text)


def write_manifest(path: Path, lines: list[Mapping[str, Any]]) -> None:
    """Write lines as JSONL."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def make_data(folder: Path, counts: Mapping[str, int] | None = None, rate: int = RATE) -> Path:
    """Write a data folder in which pitch and words both tell the emotion; one transcript in five is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (counts or {"train": 24, "valid": 10, "test": 8}).items():
        lines = []
        for i in range(count):
            happy = i % 2
            name = f"{split}-{i:03d}"
            samples = wave(0.3 + 0.05 * (i % 7), i, rate, 150.0 + 150 * happy)
            soundfile.write(folder / f"{name}.wav", samples, rate)
            lines.append(
                {
                    "utterance_id": name,
                    "speaker_id": f"{split}-speaker-{i % 3}",
                    "wav_path": f"{name}.wav",
                    "transcript": None if i % 5 == 4 else f"hôm nay tôi {('buồn', 'vui')[happy]} lắm" + " ạ" * (i % 4),
                    "emotion": ("sad", "happy")[happy],
                    "take": i,
                }
            )
        write_manifest(folder / f"{split}.jsonl", lines)
    return folder


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def make_whisper(folder: Path, scale: float = 3.0, seed: int = 0) -> Path:
    """Write a tiny Whisper checkpoint with a real window of 3 s; its weights are large enough to show a leak."""
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        d_model=32, encoder_layers=3, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=60, max_source_positions=150, max_target_positions=16,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperModel(config)
        with torch.no_grad():
            for name, parameter in model.encoder.named_parameters():
                if name.endswith("weight") and parameter.ndim > 1 and "embed" not in name:
                    parameter.mul_(scale)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=3).save_pretrained(folder)
    return folder


ASR_LETTERS = "abcdefghiklmnopqrstuvxy"
ASR_TOKENS = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|vi|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip
"""Special tokens of Whisper, in their order."""


def make_whisper_asr(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny Whisper with decoder and tokenizer, and a real window of 3 s; its text depends on the audio.

    Its random weights choose among letters and the space; many texts have the maximum length.
    """
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    from tokenizers import pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, *ASR_TOKENS])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens(list(ASR_TOKENS), special_tokens=True)
    end = vocabulary["<|endoftext|>"]
    size = len(vocabulary) + 151  # with the timestamps 0.00 to 3.00
    sizes: dict[str, Any] = {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": size,
        "max_source_positions": 150, "max_target_positions": 16, "pad_token_id": end, "bos_token_id": end,
        "eos_token_id": end, "decoder_start_token_id": end + 1,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(WhisperConfig(**(sizes | changes)))
        _enlarge(model, 5.0)
        with torch.no_grad():
            decoder = model.model.decoder
            decoder.embed_tokens.weight.mul_(10.0)
            decoder.embed_positions.weight.mul_(100.0)  # otherwise a text would repeat one letter
            for layer in decoder.layers:
                layer.encoder_attn.v_proj.weight.mul_(8.0)
            # texts end, and words end, where these letters would come
            for token, letter in ((end, "d"), (vocabulary["Ġ"], "c")):
                decoder.embed_tokens.weight[token] = 1.1 * decoder.embed_tokens.weight[vocabulary[letter]]
    shown = [vocabulary[letter] for letter in (*ASR_LETTERS, "Ġ")]
    model.generation_config = GenerationConfig(
        decoder_start_token_id=end + 1, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        suppress_tokens=[i for i in range(end + 10) if i not in (*shown, end)],
        begin_suppress_tokens=[vocabulary["Ġ"], end],
        lang_to_id={"<|en|>": end + 2, "<|vi|>": end + 3}, task_to_id={"translate": end + 4, "transcribe": end + 5},
        no_timestamps_token_id=end + 9, is_multilingual=True, max_length=sizes["max_target_positions"],
        max_initial_timestamp_index=50, return_timestamps=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_wave_transformer(folder: Path, kind: str = "wav2vec2", group_norm: bool = False, **changes: Any) -> Path:
    """Write a tiny checkpoint in wav2vec 2.0's layout with the real kernels: wav2vec2, hubert, wavlm or data2vec."""
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    import transformers

    prefix = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "data2vec": "Data2VecAudio"}[kind]
    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
        "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    if kind != "data2vec":
        sizes |= {"feat_extract_norm": "group" if group_norm else "layer", "do_stable_layer_norm": not group_norm}
    config = getattr(transformers, f"{prefix}Config")(**(sizes | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{prefix}Model")(config)
        _enlarge(model.encoder)
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=not group_norm).save_pretrained(
        folder
    )
    return folder


def _enlarge(module: torch.nn.Module, scale: float = 3.0) -> None:
    """Scale weights up: those of a fresh model are so small that they would hide a leak."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(scale)


WORDS = (
    "hôm",
    "nay",
    "trời",
    "đẹp",
    "tôi",
    "không",
    "biết",
    "phải",
    "nói",
    "gì",
    "vui",
    "buồn",
    "lắm",
    "ừ",
    "sinh_viên",
    "hôm_nay",
)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return BPE merges, by rank, that make one token of each word."""
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
            ranks.setdefault(pair, len(ranks))  # after all others, so that the words before stay whole
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == pair:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
    return list(ranks)


def make_phobert(folder: Path, tokenizer_class: bool = True, words: Sequence[str] = WORDS, **changes: Any) -> Path:
    """Write a tiny PhoBERT: vocab.txt, bpe.codes, config.json, weights."""
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    from transformers import RobertaConfig, RobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted({letter for word in words for letter in word})
    pieces = [*words, *letters, *(f"{letter}@@" for letter in letters)]
    (folder / "vocab.txt").write_text("".join(f"{piece} 1\n" for piece in dict.fromkeys(pieces)), "utf-8")
    (folder / "bpe.codes").write_text("".join(f"{a} {b} 1\n" for a, b in _merges(words)), "utf-8")
    sizes = {
        "vocab_size": 4 + len(dict.fromkeys(pieces)) + 1, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 258, "type_vocab_size": 1,
        "pad_token_id": 1,
    }  # fmt: skip
    config = RobertaConfig(**(sizes | changes))
    if tokenizer_class:
        config.tokenizer_class = "PhobertTokenizer"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RobertaModel(config, add_pooling_layer=False)
        _enlarge(model.encoder)
    model.save_pretrained(folder)
    return folder


def make_videberta(folder: Path) -> Path:
    """Write a tiny ViDeBERTa: spm.model (sentencepiece, trained here), config.json, weights."""
    import io

    import sentencepiece

    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    from transformers import DebertaV2Config, DebertaV2Model

    folder.mkdir(parents=True, exist_ok=True)
    model_bytes = io.BytesIO()
    sentences = [" ".join(WORDS[i:] + WORDS[:i]).replace("_", " ") for i in range(len(WORDS))] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model_bytes, vocab_size=60, model_type="unigram",
        hard_vocab_limit=False, pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]",
        eos_piece="[SEP]", unk_piece="[UNK]", user_defined_symbols=["[MASK]"], minloglevel=2,
    )  # fmt: skip
    (folder / "spm.model").write_bytes(model_bytes.getvalue())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    config = DebertaV2Config(
        vocab_size=80, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=128, relative_attention=True, position_buckets=16, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type=["p2c", "c2p"], max_relative_positions=-1, position_biased_input=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DebertaV2Model(config)
        _enlarge(model.encoder)
    model.save_pretrained(folder)
    return folder


def make_text_transformer(folder: Path, kind: str, **changes: Any) -> Path:
    """Write a tiny text model of a family of transformers, such as "Bert", with a tokenizer of whole words."""
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    import tokenizers
    import transformers

    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    words = [*special.values(), *(word for word in WORDS if "_" not in word), *"abcdefgh"]
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **special).save_pretrained(folder)
    sizes: dict[str, Any] = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "T5":
        sizes |= {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}
    elif kind == "Bart":
        sizes |= {"d_model": 32, "decoder_start_token_id": 2, "max_position_embeddings": 64}
        for side, layers in (("encoder", 3), ("decoder", 1)):
            sizes |= {f"{side}_layers": layers, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 48}
    else:
        sizes |= {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    if kind == "ModernBert":
        sizes |= {"cls_token_id": 1, "sep_token_id": 2}
    if kind == "DebertaV2":
        sizes |= {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]}
        sizes |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}
    config = getattr(transformers, f"{kind}Config")(**(sizes | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}Model")(config)
        _enlarge(model)
    model.save_pretrained(folder)
    return folder


def make_language_model(folder: Path, kind: str) -> Path:
    """Write a tiny decoder-only model, Qwen2, Gemma or Llama, with a tokenizer of byte-level BPE.

    As their own, Qwen2's tokenizer adds no special token, and the others' begin with <bos>.
    """
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    import tokenizers
    import transformers

    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    fast = tokenizers.Tokenizer(tokenizers.models.BPE())
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, special_tokens=[*special.values()], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    fast.train_from_iterator([" ".join(WORDS).replace("_", " ")] * 4, trainer)
    if kind != "Qwen2":
        fast.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **special).save_pretrained(folder)
    sizes: dict[str, Any] = {
        "vocab_size": 330, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if kind == "Gemma":
        sizes["head_dim"] = 8
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes))
        _enlarge(model)
    model.save_pretrained(folder)
    return folder


def make_vggish(folder: Path) -> Path:
    """Write random weights with VGGish's keys, in its own size unless the tests narrow it."""
    from safetensors.torch import save_file

    from features.encoders.vggish import Vggish

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Vggish().state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "vggish.safetensors")
    return folder
