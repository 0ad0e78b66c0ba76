"""Protocols: official splits and folds, and folds in which no group is in two splits."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from features.corpora.items import Corpus, Item
from features.corpora.options import ImportOptions
from features.corpora.protocol import choose_protocol, connected_groups, group_parts
from features.errors import InputError, UsageError

LABELS = ("angry", "happy", "sad")


def items(speakers: int, per_label: int = 2) -> list[Item]:
    found = []
    for speaker in range(speakers):
        for label in LABELS:
            for number in range(per_label):
                name = f"{speaker}-{label}-{number}"
                found.append(Item(name, Path(f"{name}.wav"), label, speaker_id=str(speaker)))
    return found


@pytest.mark.parametrize("count", [3, 5])
def test_each_utterance_is_tested_once_and_no_group_is_in_two_splits(count: int) -> None:
    corpus = Corpus(items(11))
    folds = choose_protocol(corpus, ImportOptions(folds=count)).folds
    tested = [name for fold in folds for name in fold["test"]]
    assert sorted(tested) == sorted(item.utterance_id for item in corpus.items)
    for fold in folds:
        speakers = {split: {name.split("-")[0] for name in names} for split, names in fold.items()}
        assert all(not one & other for one, other in combinations(speakers.values(), 2))
        assert sum(map(len, fold.values())) == len(corpus.items)
        assert all({name.split("-")[1] for name in names} == set(LABELS) for names in fold.values())


def test_the_folds_depend_on_the_utterances_only() -> None:
    once, again = (choose_protocol(Corpus(each), ImportOptions()) for each in (items(7), items(7)[::-1]))
    for first, second in zip(once.folds, again.folds, strict=True):
        assert {split: sorted(names) for split, names in first.items()} == {
            split: sorted(names) for split, names in second.items()
        }


def test_a_rare_label_is_in_every_part_if_a_division_allows_it() -> None:
    corpus = items(9)
    for speaker in (0, 1, 2):  # only three speakers have the label
        corpus.append(Item(f"{speaker}-rare-0", Path(f"{speaker}.wav"), "rare", speaker_id=str(speaker)))
    parts = group_parts(corpus, [1 / 3] * 3, "speaker")
    assert [sum(each.label == "rare" for each in part) for part in parts] == [1, 1, 1]
    assert sorted(len({each.speaker_id for each in part}) for part in parts) == [3, 3, 3]


def test_a_label_that_cannot_be_in_every_part_does_not_spoil_the_others() -> None:
    corpus = [*items(9), Item("0-rare-0", Path("a.wav"), "rare", speaker_id="0")]
    parts = group_parts(corpus, [1 / 3] * 3, "speaker")
    assert sorted(len({each.label for each in part}) for part in parts) == [3, 3, 4]
    assert sorted(map(len, parts)) == [18, 18, 19]


def test_no_part_is_empty_even_if_all_labels_fit_into_one() -> None:
    large = [Item(f"a{i}", Path(f"a{i}"), "sad", speaker_id="a") for i in range(100)]
    parts = group_parts([*large, Item("b", Path("b"), "happy", speaker_id="b")], [0.2, 0.8], "speaker")
    assert [len(part) for part in parts] in ([1, 100], [100, 1])


def test_speakers_of_one_recording_are_not_divided() -> None:
    corpus = items(6)
    together = [replace(each, audio=Path("wav/../call.wav")) for each in corpus if each.speaker_id in ("0", "5")]
    others = [each for each in corpus if each.speaker_id not in ("0", "5")]
    for part in group_parts([*together, *others], [1 / 3] * 3, "speaker"):
        assert len({"0", "5"} & {each.speaker_id for each in part}) in (0, 2)
    message = "at least 6 speakers, one per part, found 5; speakers with a common recording or equal audio count as one"
    with pytest.raises(InputError, match=message):
        group_parts([*together, *others], [1 / 6] * 6, "speaker")
    given = [replace(each, group=each.speaker_id) for each in [*together, *others]]
    assert len(group_parts(given, [1 / 6] * 6, "speaker")) == 6


def test_groups_with_equal_audio_are_joined_and_unknown_ones_stay_together() -> None:
    found = connected_groups(
        [
            Item("a", Path("a"), "x", speaker_id="1", sha256="same"), Item("b", Path("b"), "x", speaker_id="2"),
            Item("c", Path("c"), "x", speaker_id="3", sha256="same"), Item("d", Path("d"), "x", sha256="other"),
            Item("e", Path("e"), "x"), Item("f", Path("f"), "x", speaker_id="3", sha256="third"),
            Item("g", Path("g"), "x", speaker_id="unknown"),
        ]
    )  # fmt: skip
    a, b, c, d, e, f, g = found
    assert a == c == f and d == e and len({a, b, d, g}) == 4


def test_too_few_or_unknown_groups_are_refused() -> None:
    with pytest.raises(InputError, match="at least 5 speakers, one per part, found 4"):
        choose_protocol(Corpus(items(4)), ImportOptions())
    unknown = [Item(str(number), Path("a"), "sad") for number in range(9)]
    with pytest.raises(InputError, match="utterances must have a known film to be divided, found none"):
        choose_protocol(Corpus(unknown, unit="film"), ImportOptions())


def official(splits: str) -> Corpus:
    of_letter = {"t": "train", "v": "valid", "e": "test", "-": None}
    found = []
    for item, letter in zip(items(len(splits), 1), "".join(letter * 3 for letter in splits), strict=True):
        found.append(
            Item(item.utterance_id, item.audio, item.label, speaker_id=item.speaker_id, split=of_letter[letter])
        )  # type: ignore[arg-type]
    return Corpus(found, official="the splits")


def test_official_splits_are_kept() -> None:
    protocol = choose_protocol(official("ttve"), ImportOptions())
    assert [len(protocol.splits[split]) for split in ("train", "valid", "test")] == [6, 3, 3]
    assert protocol.folds == [] and protocol.text == "the splits"


def test_official_splits_that_lack_something() -> None:
    protocol = choose_protocol(official("ttttttee"), ImportOptions())
    speakers = {split: {item.speaker_id for item in part} for split, part in protocol.splits.items()}
    assert speakers["test"] == {"6", "7"} and not speakers["train"] & speakers["valid"]
    assert [finding.id for finding in protocol.findings] == ["valid_made"]
    with pytest.raises(InputError, match="must have test, found no utterance of it; give --protocol groups"):
        choose_protocol(official("ttvv"), ImportOptions())
    with pytest.raises(InputError, match="must have an official split, found none for '1-angry-0'"):
        choose_protocol(official("t-ve"), ImportOptions())
    with pytest.raises(UsageError, match="--folds needs --protocol groups"):
        choose_protocol(official("ttve"), ImportOptions(folds=3))
    assert choose_protocol(official("ttve"), ImportOptions(folds=3).with_general(["folds"])).folds == []
    with pytest.raises(UsageError, match="--protocol official needs official splits"):
        choose_protocol(Corpus(items(5)), ImportOptions(protocol="official"))


def test_official_folds_lose_what_is_left_out_but_no_whole_split() -> None:
    corpus = official("ttt")
    names = [item.utterance_id for item in corpus.items]
    corpus.folds = [{"train": names[:3], "valid": [*names[3:6], "gone"], "test": names[6:]}]
    protocol = choose_protocol(corpus, ImportOptions())
    assert protocol.folds == [{"train": names[:3], "valid": names[3:6], "test": names[6:]}]
    assert [item.utterance_id for item in protocol.splits["test"]] == names[6:]
    corpus.folds = [{"train": names[:3], "valid": ["gone"], "test": names[6:]}]
    with pytest.raises(InputError, match="with label and audio, found none in valid of fold 1"):
        choose_protocol(corpus, ImportOptions())
    corpus.folds = [{"train": names[:4], "valid": names[3:6], "test": names[6:]}]
    with pytest.raises(InputError, match=f"one split of a fold, found in two in fold 1: {names[3]}"):
        choose_protocol(corpus, ImportOptions())
