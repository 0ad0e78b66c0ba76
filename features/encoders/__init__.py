"""Registry of the encoders.

To add one, write a module with an `Encoder` subclass and add an entry here.
"""

from __future__ import annotations

from dataclasses import dataclass

AUDIO_FILES = ("config.json", "preprocessor_config.json|processor_config.json")
TEXT_FILES = ("config.json", "tokenizer.json|vocab.txt|vocab.json|*.model")
"""Usual values of `EncoderSpec.files`."""


@dataclass(frozen=True)
class EncoderSpec:
    """Metadata of an encoder, available without importing it."""

    target: str
    """The Encoder subclass, as `module:Class`."""
    description: str
    model: str | None
    """Default model (hub id or folder); None: see `makes_weights`."""
    depth: float | None
    """Default layer as a fraction of the encoder's layers; None: the last output."""
    width: str
    """D of the features, by model size."""
    layers: str
    """Number of layers, by model size."""
    rate: str
    """Frames per second of audio, or tokens per unit of text."""
    needs: str
    """What loading it requires."""
    licence: str
    reason: str = ""
    """Reason for the default layer."""
    settings: tuple[str, ...] = ()
    """Fields of EncoderSettings that it supports."""
    files: tuple[str, ...] = ()
    """Files of a checkpoint that are loaded besides its weights: patterns, with `|` between
    alternatives."""
    makes_weights: bool = True
    """If `model` is None: whether weights are initialized from a seed when the selector names no
    model."""
    stride: int = 0
    """Hop between frames, in samples at 16 kHz; 0 for text."""
    centre: float = 0.0
    """Centre of the first frame, in samples at 16 kHz."""


TEXT_ENCODERS: dict[str, EncoderSpec] = {
    "phobert": EncoderSpec(
        target="features.encoders.transformer_text:PhoBert",
        description="PhoBERT base, base-v2 or large; at most 256 tokens, words segmented first",
        model="vinai/phobert-base",
        depth=None,
        width="768 base, 1024 large",
        layers="12 base, 24 large",
        rate="1 per subword, [CLS] first",
        needs="a checkpoint: hub id or folder; pyvi (extra `segment`), or another --segmenter",
        licence="MIT (base, large), AGPL-3.0 (base-v2)",
        files=("config.json", "vocab.txt", "bpe.codes"),
        settings=("segmenter", "tone_style"),
    ),
    "videberta": EncoderSpec(
        target="features.encoders.transformer_text:ViDeBerta",
        description="ViDeBERTa xsmall or base",
        model="Fsoft-AIC/videberta-base",
        depth=None,
        width="384 xsmall, 768 base",
        layers="12",
        rate="1 per subword, [CLS] first",
        needs="videberta=FOLDER with config.json, spm.model, the released weights as "
        "pytorch_model.bin and the generator's as pytorch_model.generator.bin (the release has "
        "only the difference to the generator's embedding, under other file names); "
        "sentencepiece, protobuf and pyvi (extra `segment`)",
        licence="see the checkpoint",
        files=TEXT_FILES,
        settings=("segmenter", "tone_style"),
    ),
    "transformer": EncoderSpec(
        target="features.encoders.transformer_text:AnyTransformer",
        description="any text encoder in the Hugging Face layout (xlm-roberta-base, uitnlp/visobert, ...), or a "
        "decoder-only language model (Qwen2, Llama, Gemma), of which --pooling cls takes the last token: "
        "no other has seen the whole text",
        model=None,
        depth=None,
        width="the model's",
        layers="the model's",
        rate="1 per subword",
        needs="a checkpoint: transformer=ID or transformer=FOLDER",
        licence="see the checkpoint",
        files=TEXT_FILES,
        settings=("segmenter", "tone_style"),
        makes_weights=False,
    ),
    "hashed_ngrams": EncoderSpec(
        target="features.encoders.hashed_ngrams:HashedNgrams",
        description="hashed syllable and character n-grams with positions; a baseline without semantics",
        model=None,
        depth=None,
        width="256",
        layers="1",
        rate="1 per syllable, [CLS] first",
        needs="nothing",
        licence="Apache-2.0",
    ),
}

MIDDLE = "middle layers carry emotion best, the last can be worst (arXiv 2308.08713)"
"""Reason for a default layer in the middle."""

AUDIO_ENCODERS: dict[str, EncoderSpec] = {
    "wav2vec2": EncoderSpec(
        target="features.encoders.wav2vec2:Wav2Vec2",
        description="wav2vec 2.0, any size; XLSR-53 if none is named",
        model="facebook/wav2vec2-large-xlsr-53",
        depth=0.5,
        width="768 base, 1024 large",
        layers="12 base, 24 large",
        rate="50 Hz",
        needs="a checkpoint: hub id or folder",
        licence="Apache-2.0",
        files=AUDIO_FILES,
        reason=MIDDLE,
        stride=320,
        centre=200.0,
    ),
    "hubert": EncoderSpec(
        target="features.encoders.wav2vec2:Hubert",
        description="HuBERT, any size",
        model="facebook/hubert-base-ls960",
        depth=0.5,
        width="768 base, 1024 large",
        layers="12 base, 24 large",
        rate="50 Hz",
        needs="a checkpoint: hub id or folder",
        licence="Apache-2.0",
        files=AUDIO_FILES,
        reason=MIDDLE,
        stride=320,
        centre=200.0,
    ),
    "wavlm": EncoderSpec(
        target="features.encoders.wav2vec2:WavLM",
        description="WavLM, any size",
        model="microsoft/wavlm-base-plus",
        depth=0.5,
        width="768 base, 1024 large",
        layers="12 base, 24 large",
        rate="50 Hz",
        needs="a checkpoint: hub id or folder",
        licence="see the checkpoint",
        files=AUDIO_FILES,
        reason=MIDDLE,
        stride=320,
        centre=200.0,
    ),
    "data2vec": EncoderSpec(
        target="features.encoders.wav2vec2:Data2VecAudio",
        description="data2vec-audio, any size; encodes one utterance at a time: its positions cannot be masked",
        model="facebook/data2vec-audio-base",
        depth=0.5,
        width="768 base, 1024 large",
        layers="12 base, 24 large",
        rate="50 Hz",
        needs="a checkpoint: hub id or folder",
        licence="Apache-2.0",
        files=AUDIO_FILES,
        reason=MIDDLE,
        stride=320,
        centre=200.0,
    ),
    "whisper": EncoderSpec(
        target="features.encoders.whisper:Whisper",
        description="encoder of Whisper or PhoWhisper, any size, 30 s windows",
        model="openai/whisper-small",
        depth=2 / 3,
        width="384 tiny, 512 base, 768 small, 1024 medium, 1280 large",
        layers="4 tiny, 6 base, 12 small, 24 medium, 32 large",
        rate="50 Hz",
        needs="a checkpoint: hub id or folder",
        licence="MIT (Whisper), BSD-3-Clause (PhoWhisper)",
        files=AUDIO_FILES,
        reason=MIDDLE,
        settings=("whisper_mode",),
        stride=320,
        centre=0.0,
    ),
    "vggish": EncoderSpec(
        target="features.encoders.vggish:Vggish",
        description="VGGish: a convolutional network over log-mel patches of 0.96 s",
        model=None,
        depth=None,
        width="128",
        layers="1",
        rate="1.04 Hz",
        needs="weights: vggish=FOLDER or vggish=FILE (the public vggish-10086976.pth, or safetensors of its keys)",
        licence="Apache-2.0",
        makes_weights=False,
        stride=15_360,
        centre=7_800.0,
    ),
    "fourier2vec": EncoderSpec(
        target="features.encoders.fourier2vec:Fourier2Vec",
        description="log-mel spectrogram, convolutions and a Transformer; random weights unless pretrained",
        model=None,
        depth=None,
        width="256",
        layers="4",
        rate="50 Hz",
        needs="nothing; `mervn pretrain-audio` makes weights for fourier2vec=FOLDER",
        licence="Apache-2.0",
        stride=320,
        centre=200.0,
    ),
}

IMPORTED = EncoderSpec(
    target="",
    description="features of another program, see mervn store import",
    model=None,
    depth=None,
    width="the features'",
    layers="the features'",
    rate="the features'",
    needs="nothing",
    licence="the features'",
    makes_weights=False,
)
"""Metadata of every name that is not in the registries: features that a user has imported. There is
no encoder to load."""

CUSTOM_ENCODER = EncoderSpec(
    target="features.encoders.custom_encoder:CustomEncoder",
    description="a class in a Python file of yours: see docs/adding-an-encoder.md",
    model=None,
    depth=None,
    width="the class's",
    layers="the class's",
    rate="the class's",
    needs="the file",
    licence="yours",
)
"""Spec of every encoder that is given as FILE.py:Class; its file says the rest."""

ENCODERS: dict[str, dict[str, EncoderSpec]] = {"text": TEXT_ENCODERS, "audio": AUDIO_ENCODERS}
DEFAULT_ENCODERS = {"audio": "wav2vec2", "text": "phobert"}
"""Defaults of `mervn extract`."""
