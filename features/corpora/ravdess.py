"""RAVDESS (Livingstone, Russo 2018): 24 actors, 2 sentences, 8 emotions; no official split.

Layout: Actor_01/03-01-05-01-01-01-01.wav; the numbers are modality, vocal channel, emotion,
intensity, sentence, repetition and actor.
"""

from __future__ import annotations

import re
from pathlib import Path

from features.corpora.items import Corpus, Item, Work
from features.corpora.options import ImportOptions
from features.errors import InputError

LABELS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fear", "07": "disgust",
    "08": "surprise",
}  # fmt: skip
SENTENCES = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
VOCAL = {"01": "speech", "02": "song"}
INTENSITY = {"01": "normal", "02": "strong"}
NAME = re.compile(r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")
PUBLISHED = {"speech": (1440, 24), "song": (1012, 23), "all": (2452, 24)}
"""Number of utterances and actors of the published corpus; actor 18 has no songs."""


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read the audio files of all actors; --vocal chooses speech or song.

    A second copy of the same file, which some archives have, is reported as a repeated id.

    Raises InputError if there is no file of such a name.
    """
    vocal = options.vocal or "speech"
    corpus = Corpus([])
    other, misplaced = [], []
    for audio in sorted(source.rglob("*.wav")):
        parts = NAME.fullmatch(audio.stem)
        if parts is None:
            other.append(str(audio.relative_to(source)))
            continue
        _, channel, emotion, intensity, sentence, repetition, actor = parts.groups()
        if vocal not in ("all", VOCAL[channel]):
            corpus.leave_out(f"not {vocal}", audio.stem)
            continue
        if audio.parent.name != f"Actor_{actor}":
            misplaced.append(f"{audio.parent.name}/{audio.name}")
        extra = {
            "vocal": VOCAL[channel], "intensity": INTENSITY[intensity], "sentence_id": sentence,
            "repetition": int(repetition), "gender": "female" if int(actor) % 2 == 0 else "male",
        }  # fmt: skip
        corpus.items.append(Item(audio.stem, audio, LABELS[emotion], emotion, actor, SENTENCES[sentence], extra=extra))
    if not corpus.items:
        raise InputError(f"{source} must have files such as Actor_01/03-01-05-01-01-01-01.wav of {vocal}, found none")
    if other:
        corpus.warn("other_files", f"{len(other)} files have names of another form and are left out", other)
    if misplaced:
        message = f"{len(misplaced)} files are in the folder of another actor; the name of the file counts"
        corpus.warn("wrong_folder", message, misplaced)
    utterances, actors = PUBLISHED[vocal]
    kind = "speech and song" if vocal == "all" else vocal
    corpus.expect(utterances, len({item.utterance_id for item in corpus.items}), f"utterances of {kind}")
    corpus.expect(actors, len({item.speaker_id for item in corpus.items}), "actors")
    corpus.note("parallel_sentences", "all actors speak the same 2 sentences: transcripts tell nothing, or leak")
    return corpus
