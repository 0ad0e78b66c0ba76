"""EXPLANATIONS: the kinds of findings, why each matters and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from features.audit.finding import Explanation, Finding, Severity, examples_of
from features.manifests.manifest import Utterance

SPLIT_AGAIN = "Split again, so that each {} is in one split only."
NAMES_ONLY = (
    "Encoders and heads do not read it, so no score of this toolkit gains from it. "
    "It is a shortcut for code that reads names, or that derives the speaker from them."
)
EXPLANATIONS: dict[str, Explanation] = {
    "speaker_overlap": Explanation(
        "A model recognises voices that it was trained on, so the score is higher than for new speakers.",
        SPLIT_AGAIN.format("speaker"),
    ),
    "recording_overlap": Explanation(
        "Utterances of one recording share voice, room and topic, so a model can recognise the recording.",
        SPLIT_AGAIN.format("recording"),
    ),
    "duplicate_audio": Explanation(
        "A copy in another split is an answer that the model has seen; a copy in the same split counts twice.",
        "Remove the copies, or keep all copies of one recording in one split.",
    ),
    "conflicting_labels": Explanation(
        "The same audio cannot be learned with two labels, and one of the two scores as a mistake.",
        "Listen to it and correct the label, or remove all copies.",
    ),
    "segment_overlap": Explanation(
        "The same seconds of a recording stand under two ids: in two splits, the model has seen the answer.",
        "Remove one of the two, or move both into one split.",
    ),
    "transcript_overlap": Explanation(
        "A model that reads text can remember these sentences. Case, punctuation and the place of tone marks "
        "are ignored, as a model may ignore them.",
        "Keep all utterances of a sentence in one split, or report scores without the repeated ones too.",
    ),
    "speaker_is_utterance": Explanation(
        "speaker_id seems to name files, not people. Nobody can tell then whether a speaker is in two splits, "
        "and intervals are too narrow.",
        "Write the real speakers; if they are unknown, leave speaker_id out. If each of these people really "
        "speaks once, all is well.",
    ),
    "unknown_speaker": Explanation(
        "This is allowed. But it cannot be checked that no speaker is in two splits, and intervals have to "
        "assume that utterances are independent.",
        "Add speaker_id where you know it.",
    ),
    "label_in_id": Explanation(NAMES_ONLY, "Use neutral ids, such as numbers, if you share the corpus."),
    "label_in_path": Explanation(NAMES_ONLY, "Use neutral file names, such as the ids, if you share the corpus."),
    "empty_transcript": Explanation(
        "This is allowed: the text is then treated as missing.", "Transcribe them, if they hold speech."
    ),
    "empty_transcript_by_class": Explanation(
        "A model that reads text can learn that there is no text, which says nothing about how something is said.",
        "Transcribe them in the same way for all classes, or report a model of audio alone too.",
    ),
    "transcript_is_label": Explanation(
        "A table of the sentences of the other splits, without any model, answers so. The score of text then "
        "measures memory.",
        "Keep all utterances of a sentence in one split; remove words that annotators added, such as (crying).",
    ),
    "transcript_not_nfc": Explanation(
        "One letter can be written in two ways in Unicode. Commands of this toolkit use NFC, other programs may "
        "see different words.",
        "Write the manifests with unicodedata.normalize('NFC', text).",
    ),
    "label_lookalike": Explanation(
        "Two labels that look the same count as two classes; training refuses them.",
        "Use one spelling, or train with --label-map.",
    ),
    "class_missing": Explanation(
        "A class that train lacks cannot be learned, and one that valid or test lacks is not measured.",
        "Split again, stratified by class, or leave the class out with --drop-label.",
    ),
    "few_speakers": Explanation(
        "The uncertainty of a score comes from the speakers. Below 4 there is no interval.",
        "Use more speakers, or folds, so that every speaker is tested once.",
    ),
    "dominant_speaker": Explanation(
        "The score is then mostly that of one voice, and the interval is as wide as for few speakers.",
        "Report scores by speaker, or limit the utterances of this speaker.",
    ),
    "duration_by_class": Explanation(
        "The length may be a real cue, since people speak more slowly when they are sad. It may also come from "
        "how the audio was cut. A model can use it without any sound.",
        "Check how segments were cut, and compare your scores with this one: `mervn evaluate --leak-baselines`.",
    ),
    "sample_rate_by_class": Explanation(
        "Classes come from different sources. Resampled audio of a low rate has no high frequencies, so a model "
        "can tell the source, and thereby the class.",
        "Take all classes from the same sources, or convert all audio to the lowest rate.",
    ),
    "end_past_file": Explanation(
        "An end up to 0.05 s after the end of the file is moved there. One that is later is rejected by extraction.",
        "Correct the times in the manifest, or restore the complete file.",
    ),
    "unreadable_audio": Explanation(
        "Extraction rejects these utterances, and training refuses to go without them.",
        "Restore or convert the files, or remove the lines from the manifest.",
    ),
    "clipped_audio": Explanation(
        "The recording was louder than the format can hold, and its peaks were cut off. That sounds distorted, and "
        "loud speech is often angry speech.",
        "Use the original recordings at a lower gain; otherwise compare scores with and without these utterances.",
    ),
    "silent_audio": Explanation(
        "Silence is valid input, but it carries no emotion: the label cannot come from this audio.",
        "Listen to them, and remove those without speech.",
    ),
    "decorrelated_stereo": Explanation(
        "The channels carry different sounds, often one speaker each. Their mean mixes both, or cancels them.",
        'Set "channel" in the manifest to 0 or 1.',
    ),
}  # fmt: skip


def finding(name: str, severity: Severity, count: int, message: str, utterances: Sequence[Utterance]) -> Finding:
    """Make a finding of a kind; `utterances` are its examples."""
    of_kind = EXPLANATIONS[name]
    return Finding(name, severity, count, message, of_kind.why, of_kind.fix, examples_of(utterances))
