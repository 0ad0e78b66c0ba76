"""IEMOCAP (Busso et al. 2008): 5 sessions of 2 actors; one session left out per fold.

Layout: SessionN/dialog/EmoEvaluation/*.txt (labels), SessionN/dialog/transcriptions/*.txt and
SessionN/sentences/wav/DIALOGUE/UTTERANCE.wav.
"""

from __future__ import annotations

import re
from pathlib import Path

from features.corpora.items import Corpus, Fold, Item, Work, read_text
from features.corpora.label_aliases import is_missing
from features.corpora.options import ImportOptions
from features.errors import InputError, UsageError

SESSIONS = (1, 2, 3, 4, 5)
FOUR = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
"""The protocol of 4 classes, where excited counts as happy."""
NUM_UTTERANCES = {"4": 5531, "all": 10_039}
"""Number of utterances in the published corpus, with 4 classes and before any is left out."""
LABEL_LINE = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t\[(\d+\.?\d*), (\d+\.?\d*), (\d+\.?\d*)\]")
TEXT_LINE = re.compile(r"(Ses\S+) \[[\d.-]+\]: (.*)")


def read(source: Path, options: ImportOptions, work: Work) -> Corpus:
    """Read the sessions; --classes says which labels.

    The speaker is the session with the sex of the speaking actor: the F of Ses01F_impro01_M000 is
    the actor who wears the markers, the M the one who speaks.

    Raises UsageError without --classes, InputError if a session is missing.
    """
    if options.classes is None:
        raise UsageError("iemocap needs --classes 4 (angry, happy with excited, neutral, sad) or --classes all")
    corpus = Corpus([], unit="session", official="leave one session out, the next session is the valid split")
    hidden: list[str] = []
    total = 0
    for session in SESSIONS:
        labels = source / f"Session{session}" / "dialog" / "EmoEvaluation"
        if not labels.is_dir():
            raise InputError(f"{source} must have Session1 to Session5 with dialog/EmoEvaluation, but lacks {labels}")
        for path in sorted(labels.glob("*.txt")):
            if path.name.startswith("."):
                hidden.append(str(path.relative_to(source)))
                continue
            total += _read_dialogue(path, session, options, corpus)
    if hidden:
        corpus.note("hidden_files", f"{len(hidden)} files that macOS made beside the labels are skipped", hidden)
    if options.classes == "all":
        corpus.expect(NUM_UTTERANCES["all"], total, "utterances")
    else:
        corpus.expect(NUM_UTTERANCES["4"], len(corpus.items), "utterances of 4 classes")
    if any(item.extra["scripted"] for item in corpus.items):
        corpus.note("scripted_dialogues", "the sessions play the same scripts: text of test is in train too; the key "
                    "scripted tells those dialogues from the improvised ones")  # fmt: skip
    corpus.folds = _leave_one_session_out(corpus)
    return corpus


def _read_dialogue(path: Path, session: int, options: ImportOptions, corpus: Corpus) -> int:
    """Add the utterances of one file of labels; return how many it has."""
    dialogue = path.stem
    base = path.parent.parent.parent
    transcripts = _read_transcripts(base / "dialog" / "transcriptions" / path.name, corpus)
    lines = read_text(path, corpus)
    found = LABEL_LINE.findall(lines)
    if not found:
        corpus.warn("no_labels", f"{dialogue} has no line of labels", [str(path)])
    other = [line for line in lines.splitlines() if line.startswith("[") and not LABEL_LINE.match(line)]
    if other:
        corpus.warn("other_lines", f"{len(other)} lines of {path.name} are not: times, id, label, ratings", other)
    for name, code, valence, activation, dominance in found:
        label = code if options.classes == "all" else FOUR.get(code)
        if is_missing(code):
            corpus.leave_out("without agreement of the raters (xxx)", name)
            continue
        if label is None:
            corpus.leave_out(f"not one of the 4 classes ({code})", name)
            continue
        extra = {
            "session": session,
            "dialogue": dialogue,
            "scripted": "script" in dialogue,
            "valence": float(valence),
            "activation": float(activation),
            "dominance": float(dominance),
        }
        audio = base / "sentences" / "wav" / dialogue / f"{name}.wav"
        speaker = f"{name[:5]}{name.rpartition('_')[2][:1]}"
        text = transcripts.get(name)
        item = Item(name, audio, label, code, speaker, text, group=str(session), extra=extra)
        corpus.items.append(item)
    return len(found)


def _read_transcripts(path: Path, corpus: Corpus) -> dict[str, str]:
    """Return the transcripts of a dialogue by utterance."""
    if not path.is_file():
        corpus.warn("no_transcripts_of_dialogue", f"{path.stem} has no file of transcripts", [str(path)])
        return {}
    return dict(TEXT_LINE.findall(read_text(path, corpus)))


def _leave_one_session_out(corpus: Corpus) -> list[Fold]:
    """Return one fold per session: it is test, the next one is valid."""
    folds = []
    for session in SESSIONS:
        role = {session: "test", session % len(SESSIONS) + 1: "valid"}
        fold: Fold = {"train": [], "valid": [], "test": []}
        for item in corpus.items:
            fold[role.get(item.extra["session"], "train")].append(item.utterance_id)
        folds.append(fold)
    return folds
