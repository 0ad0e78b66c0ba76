"""Checks of every corpus: each finding with data that show it, and none with data that do not."""

from dataclasses import replace
from pathlib import Path

from features.corpora.checks import check_items, check_protocol
from features.corpora.items import Item
from features.corpora.protocol import Protocol


def item(name: str, label: str = "sad", **values: str | None) -> Item:
    return Item(name, Path(f"{name}.wav"), label, **values)  # type: ignore[arg-type]


def clean() -> list[Item]:
    """Return three utterances of each of eight speakers with nothing to report."""
    found = []
    for speaker in range(8):
        for number, label in enumerate(("sad", "happy", "angry")):
            text = f"câu số {speaker}{number}"
            found.append(item(f"u{speaker}{number}", label, speaker_id=f"s{speaker}", transcript=text))
    return found


def names(items: list[Item]) -> dict[str, str]:
    return {finding.id: finding.message for finding in check_items(items)}


def test_a_clean_corpus_has_no_finding() -> None:
    assert names(clean()) == {}


def test_each_fault_of_utterances_is_found() -> None:
    items = clean()
    assert names([replace(each, speaker_id=None) for each in items])["speaker_unknown"].startswith(
        "the speaker of 24 of 24"
    )
    assert "speaker_is_utterance" in names([replace(each, speaker_id=each.utterance_id) for each in items])
    dominant = names([*items, *(item(f"v{i}", speaker_id="s1", transcript=f"{i}") for i in range(5))])
    assert dominant == {"dominant_speaker": "speaker s1 has 28 % of the utterances (8 of 29)"}
    assert names([replace(each, transcript=None) for each in items]) == {
        "no_transcripts": "the corpus has no transcripts"
    }
    empty = names([replace(each, transcript=" ") if each.label == "sad" else each for each in items])
    assert empty["empty_transcript_by_class"] == (
        "8 transcripts are empty: 8 sad; none of angry, happy, so that emptiness tells about the label"
    )
    everywhere = names([replace(each, transcript="") if each.speaker_id == "s1" else each for each in items])
    assert everywhere == {"empty_transcript_by_class": "3 transcripts are empty: 1 angry, 1 happy, 1 sad"}
    named = [replace(each, utterance_id=f"{each.label}-{each.utterance_id}", code="SAD") for each in items[:2]]
    assert names([*named, *items[2:]])["label_in_id"].startswith("the label is in 2 of 24 utterance ids")
    assert names([named[0], *items[1:]]) == {}  # one in 24 can be chance


def test_equal_audio_is_found_with_its_contradictions() -> None:
    items = clean()
    items[0] = replace(items[0], sha256="same")
    items[1] = replace(items[1], sha256="same")
    items[2] = replace(items[2], sha256="other")
    found = {finding.id: finding for finding in check_items(items)}
    assert set(found) == {"duplicate_audio", "conflicting_labels"}
    assert found["duplicate_audio"].examples == ("u00 = u01",)
    items[3] = replace(items[3], sha256="other")
    assert names(items)["conflicting_speakers"] == (
        "1 groups of utterances have the same audio and different speakers (2 utterances)"
    )


def protocol(items: list[Item], *sizes: int) -> Protocol:
    train, valid = sizes
    return Protocol("", {"train": items[:train], "valid": items[train:valid], "test": items[valid:]})


def test_each_fault_of_splits_is_found() -> None:
    items = clean()
    found = {each.id: each for each in check_protocol(protocol(items, 3, 6), items, "speaker")}
    assert found == {}
    few = {each.id: each.message for each in check_protocol(protocol(items, 12, 18), items, "speaker")}
    assert few == {"few_speakers": "test has 2 speakers: below 6 no paired test by speaker is possible"}
    shared = {each.id: each for each in check_protocol(protocol(items, 3, 5), items, "speaker")}
    assert shared["speaker_overlap"].message == "1 of 7 speakers of test are in train or valid"
    assert shared["speaker_overlap"].examples == ("s1",)
    assert shared["class_missing"].message == "valid has no angry"
    valid_too = {each.id: each for each in check_protocol(protocol(items, 4, 6), items, "speaker")}
    assert valid_too["speaker_overlap"].message == "1 of 1 speakers of valid are in train"
    call = [replace(each, audio=Path("call.wav")) for each in items]
    assert "recording_overlap" in {each.id for each in check_protocol(protocol(call, 3, 6), call, "speaker")}
    films = [replace(each, group="film") for each in items]
    assert "film_overlap" in {each.id for each in check_protocol(protocol(films, 3, 6), films, "film")}
    same = [replace(each, sha256="same") for each in items]
    assert "audio_overlap" in {each.id for each in check_protocol(protocol(same, 3, 6), same, "speaker")}
    parallel = [replace(each, transcript="Kids talk") for each in items]
    found_text = {each.id: each.message for each in check_protocol(protocol(parallel, 3, 6), parallel, "speaker")}
    assert found_text["transcript_overlap"].startswith("18 of 18 transcripts of test are in train too")


def test_findings_of_folds_name_the_fold() -> None:
    items = clean()
    ids = [each.utterance_id for each in items]
    folds = [
        {"train": ids[:6], "valid": ids[6:12], "test": ids[12:]},
        {"train": ids[12:], "valid": ids[6:12], "test": ids[:6]},
    ]
    found = list(check_protocol(Protocol("", {}, folds), items, "speaker"))
    assert found == []
    folds[1]["test"] = ids[:7]
    speaker, recording = check_protocol(Protocol("", {}, folds), items, "speaker")
    assert speaker.message == "fold 2: 1 of 3 speakers of test are in train or valid"
    assert (recording.id, recording.examples) == ("recording_overlap", ("u20.wav",))
