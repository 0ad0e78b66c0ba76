"""CREMA-D (Cao et al. 2014): 91 actors speak 12 sentences in 6 emotions; no official split.

Layout: AudioWAV/ACTOR_SENTENCE_EMOTION_LEVEL.wav, such as 1001_DFA_ANG_XX.wav.
"""

from __future__ import annotations

import re
from pathlib import Path

from features.corpora.items import Corpus, Item, KnownFault, Work
from features.corpora.options import ImportOptions
from features.errors import InputError

SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
LABELS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": None, "X": None}
NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")
NUM_UTTERANCES, NUM_ACTORS = 7442, 91
KNOWN = (KnownFault("1076_MTI_SAD_XX", "silent"),)


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read the files; the label is the emotion that the actor had to show.

    Raises InputError if there is no file of such a name.
    """
    root = source / "AudioWAV" if (source / "AudioWAV").is_dir() else source
    corpus = Corpus([])
    other = []
    for audio in sorted(root.glob("*.wav")):
        parts = NAME.fullmatch(audio.stem)
        if parts is None or parts[2] not in SENTENCES or parts[3] not in LABELS or parts[4] not in LEVELS:
            other.append(audio.name)
            continue
        actor, sentence, code, level = parts.groups()
        extra = {"sentence_id": sentence, "level": LEVELS[level]}
        corpus.items.append(Item(audio.stem, audio, LABELS[code], code, actor, SENTENCES[sentence], extra=extra))
    if not corpus.items:
        raise InputError(f"{root} must have files such as 1001_DFA_ANG_XX.wav, found none")
    if other:
        corpus.warn("other_files", f"{len(other)} files have names of another form and are left out", other)
    corpus.expect(NUM_UTTERANCES, len(corpus.items), "utterances")
    corpus.expect(NUM_ACTORS, len({item.speaker_id for item in corpus.items}), "actors")
    corpus.report_known(KNOWN)
    corpus.note("intended_labels", "labels are the emotions that actors were asked for, not those that raters heard")
    corpus.note("parallel_sentences", "all actors speak the same 12 sentences: transcripts tell nothing, or leak")
    return corpus
