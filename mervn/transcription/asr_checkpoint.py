"""Whisper and PhoWhisper checkpoints with their decoder, for speech recognition."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.atomic_files import read_object
from features.audio.resampling import SAMPLE_RATE
from features.audio.torchaudio_import import import_torchaudio
from features.canonical import canonical_json
from features.encoders.base import weights_sha256
from features.encoders.hub import GENERATION_FILE
from features.encoders.model_source import ModelSource, find_source
from features.encoders.pretrained import (
    check_config,
    checkpoint_location,
    load_model,
    loading_errors,
    quiet_transformers,
)
from features.encoders.selector import Selector
from features.encoders.whisper import EXTRACTOR_FIELDS, SAMPLES_PER_FRAME
from features.errors import InputError, UsageError

FILES = ("config.json", "preprocessor_config.json|processor_config.json", "tokenizer.json|vocab.json")
"""Files that are needed besides the weights."""
START, TRANSCRIBE, NO_TIMESTAMPS, END = (
    "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>", "<|endoftext|>",
)  # fmt: skip
"""Special tokens of every Whisper tokenizer."""
LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")
NUMERIC_FIELDS = ("activation_function", "encoder_attention_heads", "decoder_attention_heads", "scale_embedding")
"""Fields of config.json that change the output of the same weights."""
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
"""Lists of token ids among the settings of decoding."""
MAX_FIRST_TIMESTAMP = 50
"""Bound of Whisper for the first timestamp of a window, in steps of 20 ms."""


@dataclass(frozen=True)
class Decoding:
    """Token ids and limits of greedy decoding: all that changes the text besides weights and audio."""

    language: str
    """Special token of the language, such as `<|vi|>`."""
    prompt: tuple[int, ...]
    """Tokens before the text: start, language, transcribe, no timestamps."""
    end: int
    suppressed: tuple[int, ...]
    """Tokens that no text has, such as those of musical notes."""
    suppressed_first: tuple[int, ...]
    """Tokens with which no text begins."""
    max_length: int
    """Maximum number of tokens, with the prompt."""
    vocabulary_size: int
    """Number of tokens of the model; the last ones are timestamps."""

    @property
    def first_timestamp(self) -> int:
        """Id of the first timestamp token."""
        return self.prompt[-1] + 1

    def generation_config(self, *, timestamps: bool) -> Any:
        """Return the GenerationConfig of transformers.

        Without timestamps, none may be predicted: transformers would move the window to it.
        """
        from transformers import GenerationConfig

        start, language, transcribe, no_timestamps = self.prompt
        suppressed = [*self.suppressed, *(() if timestamps else range(self.first_timestamp, self.vocabulary_size))]
        return GenerationConfig(
            decoder_start_token_id=start, bos_token_id=self.end, eos_token_id=self.end, pad_token_id=self.end,
            lang_to_id={self.language: language}, task_to_id={"transcribe": transcribe},
            no_timestamps_token_id=no_timestamps, is_multilingual=True, language=self.language, task="transcribe",
            suppress_tokens=suppressed or None, begin_suppress_tokens=list(self.suppressed_first) or None,
            max_length=self.max_length, max_initial_timestamp_index=MAX_FIRST_TIMESTAMP,
            num_beams=1, do_sample=False, return_timestamps=timestamps,
        )  # fmt: skip


@dataclass(frozen=True)
class AsrCheckpoint:
    """A loaded checkpoint, in float32 on the CPU."""

    model: Any
    """`WhisperForConditionalGeneration` of transformers, frozen and in eval mode."""
    extractor: Any
    """`WhisperFeatureExtractor`."""
    tokenizer: Any
    """`WhisperTokenizer`."""
    decoding: Decoding
    source: ModelSource

    def identity(self) -> dict[str, Any]:
        """Return everything that changes the text besides the audio and the precision."""
        vocabulary = canonical_json(self.tokenizer.get_vocab())
        return {
            "weights_sha256": weights_sha256(self.model),
            "model": {name: getattr(self.model.config, name) for name in NUMERIC_FIELDS},
            "extractor": {name: getattr(self.extractor, name) for name in EXTRACTOR_FIELDS},
            "vocabulary_sha256": hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest(),
            "decoding": {**asdict(self.decoding), "max_first_timestamp": MAX_FIRST_TIMESTAMP},
        }


def load_checkpoint(selector: Selector, language: str) -> AsrCheckpoint:
    """Load the checkpoint that a selector names.

    InputError if it is no complete, multilingual Whisper model; UsageError if it does not know the
    language.
    """
    import_torchaudio()  # before transformers, which imports torchaudio and could fail
    from transformers import WhisperFeatureExtractor, WhisperTokenizer

    location = checkpoint_location(selector, FILES)
    check_config(selector, location, "whisper")
    with loading_errors(selector, location), quiet_transformers():
        extractor = WhisperFeatureExtractor.from_pretrained(location)
        tokenizer = WhisperTokenizer.from_pretrained(location)
    extractor.dither = 0.0  # no random noise
    model = _load_weights(selector, location)
    _check_window(selector, model.config, extractor)
    settings = _generation_settings(selector, Path(location))
    decoding = _find_decoding(selector, tokenizer, model.config, settings, language)
    return AsrCheckpoint(model, extractor, tokenizer, decoding, find_source(selector))


def _load_weights(selector: Selector, location: str) -> Any:
    """Load encoder and decoder; InputError if weights are missing or unknown to the config."""
    from transformers import WhisperForConditionalGeneration

    try:
        model = load_model(selector, location, WhisperForConditionalGeneration, "")
    except InputError as error:
        if "decoder." not in str(error):
            raise
        raise InputError(f"{error}\nSpeech recognition needs the decoder of a Whisper model too") from error
    return model.eval().requires_grad_(False)


def _check_window(selector: Selector, config: Any, extractor: Any) -> None:
    """Raise InputError if the feature extractor does not fit the model."""
    expected = (config.max_source_positions * SAMPLES_PER_FRAME, config.num_mel_bins, SAMPLE_RATE)
    found = (extractor.n_samples, extractor.feature_size, extractor.sampling_rate)
    if found != expected:
        raise InputError(
            f"{selector.flag}: preprocessor_config.json must fit config.json: a window of {expected[0]} samples, "
            f"{expected[1]} mels and {SAMPLE_RATE} Hz, found {found[0]} samples, {found[1]} mels and {found[2]} Hz"
        )


def _generation_settings(selector: Selector, folder: Path) -> Mapping[str, Any]:
    """Return the settings of decoding: generation_config.json, or config.json of an older checkpoint."""
    file = folder / GENERATION_FILE
    try:
        settings = read_object(file if file.is_file() else folder / "config.json", "settings of decoding")
    except InputError as error:
        raise InputError(f"{selector.flag}: {error}") from error
    if settings.get("is_multilingual") is False:
        raise InputError(f"{selector.flag}: the model must be multilingual, but {file} says that it is English only")
    return settings


def _find_decoding(
    selector: Selector, tokenizer: Any, config: Any, settings: Mapping[str, Any], language: str
) -> Decoding:
    """Return the ids of the special tokens and the limits.

    The ids are those of the tokenizer: an older generation_config.json does not have them.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (START, TRANSCRIBE, NO_TIMESTAMPS, END) if token not in vocabulary]
    if missing or len(tokenizer) > config.vocab_size:
        found = f"no {' and no '.join(missing)}" if missing else f"{len(tokenizer)} tokens for {config.vocab_size}"
        raise InputError(f"{selector.flag}: the tokenizer must be that of a Whisper model of this size, found {found}")
    token = f"<|{language}|>"
    if token not in vocabulary:
        known = sorted(match[1] for match in map(LANGUAGE_TOKEN.fullmatch, vocabulary) if match)
        raise UsageError(f"--language must be one of the model's: {', '.join(known)}; found {language!r}")
    prompt = tuple(vocabulary[each] for each in (START, token, TRANSCRIBE, NO_TIMESTAMPS))
    never, first = (_token_ids(selector, settings, key, config.vocab_size) for key in SUPPRESSED)
    return Decoding(token, prompt, vocabulary[END], never, first, config.max_target_positions, config.vocab_size)


def _token_ids(selector: Selector, settings: Mapping[str, Any], key: str, size: int) -> tuple[int, ...]:
    """Return a list of token ids of the settings; InputError for anything else."""
    values = settings.get(key) or []
    valid = isinstance(values, list) and all(type(value) is int and 0 <= value < size for value in values)
    if not valid:
        raise InputError(f"{selector.flag}: {key} must be a list of token ids below {size}, found {str(values)[:80]}")
    return tuple(values)
