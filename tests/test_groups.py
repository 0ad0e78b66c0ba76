"""Groups: what shares a key is connected, also through others; pairs of overlapping segments are all found."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from faulty_corpus import clean_corpus
from tiny import wave
from tiny_extraction import utterance

from features.audit.corpus import Corpus
from features.audit.finding import MAX_EXAMPLES
from features.audit.groups import MIN_OVERLAP, group_findings
from features.errors import UsageError
from features.manifests.manifest import Utterance
from features.progress import SILENT
from features.splitting.groups import Groups, find_groups


def one(name: str, speaker: str | None = None, path: str | None = None, text: str | None = None) -> Utterance:
    audio = Path(path or f"{name}.wav")
    return replace(utterance(name), speaker_id=speaker, wav_path=str(audio), audio_path=audio, transcript=text)


def members(groups: Groups, utterances: list[Utterance]) -> list[str]:
    """Return the members of each group as text."""
    found = [""] * len(groups)
    for each, number in zip(utterances, groups.index, strict=True):
        found[number] += each.utterance_id
    return found


UTTERANCES = [
    one("e", "s1"), one("b", "s2", "x/../long.wav", "Chào, anh!"), one("c", "s1", "long.wav"),
    one("a", None, text="chào anh"), one("d", None, text=""), one("f", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["speaker_id"], ["a", "b", "ec", "d", "f"]),  # without a speaker, nothing is connected
        (["recording"], ["a", "bc", "d", "e", "f"]),
        (["speaker_id", "recording"], ["a", "ebc", "d", "f"]),
        (["transcript"], ["ba", "c", "d", "e", "f"]),  # an empty transcript connects nothing
        (["speaker_id", "recording", "transcript"], ["ebca", "d", "f"]),
    ],
)
def test_groups_are_connected_components(keys: list[str], expected: list[str]) -> None:
    groups = find_groups(UTTERANCES, keys, SILENT)
    assert members(groups, UTTERANCES) == expected
    assert groups.names == [min(names) for names in expected]
    again = find_groups(UTTERANCES[::-1], keys, SILENT)
    assert again.names == groups.names and again.index[::-1].tolist() == groups.index.tolist()


def test_equal_samples_are_connected_and_unreadable_audio_is_reported(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        soundfile.write(tmp_path / f"{name}.wav", wave(0.05, seed), 16_000)
    utterances = [one(name, path=str(tmp_path / f"{name}.wav")) for name in "abcd"]
    groups = find_groups(utterances, ["audio"], SILENT)
    assert members(groups, utterances) == ["ac", "b", "d"]
    assert [error.reason for error in groups.unreadable] == ["not_found"]


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, "1"), ("Hoà", "Hoa\u0300"), ("a b ", "a  b"), ("x", "x\u200b"), ({"b": 1, "a": 2}, {"a": 2, "b": 1})],
)
def test_equal_values_that_are_written_in_two_ways_connect(first: object, second: object) -> None:
    pair = [replace(one(name), extra={"film": film}) for name, film in (("a", first), ("b", second), ("c", " "))]
    assert members(find_groups(pair, ["film"], SILENT), pair) == ["ab", "c"]


def test_transcripts_connect_as_the_check_of_a_corpus_compares_them() -> None:
    texts = ["Hòa Đà, ơi!", "hoà đà ơi", "HOÀ ÐÀ ƠI", "hòa đà ới"]  # the third has the Icelandic letter
    spoken = [one(name, text=text) for name, text in zip("abcd", texts, strict=True)]
    assert members(find_groups(spoken, ["transcript"], SILENT), spoken) == ["abc", "d"]


def test_any_key_of_the_manifest_connects_and_an_unknown_one_is_refused() -> None:
    films = [replace(one(name), extra={"film": film}) for name, film in (("a", 1), ("b", 2), ("c", 1), ("d", None))]
    assert members(find_groups(films, ["film"], SILENT), films) == ["ac", "b", "d"]
    with pytest.raises(UsageError, match="--group flim: at least one utterance of train.jsonl must have this key"):
        find_groups(films, ["flim"], SILENT)


def test_all_pairs_of_segments_that_all_overlap_are_counted() -> None:
    """A wrong `start` makes millions of pairs in a corpus of thousands: they are counted, not kept."""
    made = clean_corpus(0)
    for index in range(len(made.utterances)):
        made.change(index, audio_path=Path("wav/call.wav"), start=0.01 * index, end=1000.0 - index, speaker_id=None)
    corpus = Corpus(made.utterances, [None] * len(made.utterances))
    (found,) = [finding for finding in group_findings(corpus) if finding.id == "segment_overlap"]
    size = len(made.utterances)
    within = sum(math.comb(len(made.of(split)), 2) for split in ("train", "valid", "test"))
    assert found.count == math.comb(size, 2)
    assert f", {found.count - within} of them in two splits" in found.message and found.severity == "error"
    assert len(found.examples) == MAX_EXAMPLES


def test_a_recording_is_one_file_under_all_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.wav").write_bytes(b"")
    (tmp_path / "link.wav").symlink_to("a/x.wav")
    (tmp_path / "linked").symlink_to("a")
    names = ["a/x.wav", "a/../link.wav", "linked/x.wav", "a/y.wav"]
    utterances = []
    for number, (name, split) in enumerate(zip(names, ("train", "valid", "test", "test"), strict=True)):
        made = one(f"u{number}", f"s{number}", str(tmp_path / name))
        utterances.append(replace(made, split=split, file=f"{split}.jsonl", start=5.0 * number, end=5.0 * number + 1))
    (found,) = [f for f in group_findings(Corpus(utterances, [None] * 4)) if f.id == "recording_overlap"]
    assert found.count == 1 and found.message == "1 audio file in several splits, with 3 utterances"


def test_a_speaker_dominates_a_split_and_not_its_known_speakers() -> None:
    made = clean_corpus(0)
    for index in made.of("test"):
        made.change(index, speaker_id=None)
    for index, speaker in zip(made.of("test"), "aaabcd", strict=False):
        made.change(index, speaker_id=speaker)
    kinds = [finding.id for finding in group_findings(made.corpus())]
    assert kinds == ["unknown_speaker"]  # 3 of 6 known, 3 of 60 utterances
    for index in made.of("test")[6:40]:
        made.change(index, speaker_id="a")
    found = {finding.id: finding for finding in group_findings(made.corpus())}
    assert found["dominant_speaker"].message == "37 of 60 utterances of test (62%) are of 'a'"


def test_a_few_names_that_repeat_do_not_make_files_speakers() -> None:
    made = clean_corpus(0)
    size = len(made.utterances)
    for index in range(size):
        made.change(index, speaker_id=f"p{index % (size - 10)}" if index < size - 10 else f"p{index - size + 10}")
    kinds = [finding.id for finding in group_findings(made.corpus())]
    assert "speaker_is_utterance" in kinds
    for index in range(size):
        made.change(index, speaker_id=f"{made.utterances[index].split}-{index // 2}")
    assert [finding.id for finding in group_findings(made.corpus())] == []  # two utterances each


@pytest.mark.parametrize("seed", range(5))
def test_pairs_of_segments_are_those_of_all_comparisons(seed: int) -> None:
    made = clean_corpus(seed)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(made.utterances))[:40].tolist()
    for index in chosen:
        start, length = rng.uniform(0, 20), rng.choice([0.5, 2.0, 9.0])
        channel = rng.choice(["0", "1", "mix"])
        made.change(
            index, audio_path=Path("wav/call.wav"), start=start, end=start + length,
            channel=channel if channel == "mix" else int(channel),
        )  # fmt: skip
    corpus = Corpus(made.utterances, [None] * len(made.utterances))
    expected, across = 0, 0
    for first, second in combinations([made.utterances[index] for index in chosen], 2):
        assert first.end is not None and second.end is not None
        common = min(first.end, second.end) - max(first.start, second.start)
        shorter = min(first.end - first.start, second.end - second.start)
        if {first.channel, second.channel} != {0, 1} and common > MIN_OVERLAP * shorter:
            expected += 1
            across += first.split != second.split
    (found,) = [finding for finding in group_findings(corpus) if finding.id == "segment_overlap"]
    assert found.count == expected > 20 and f", {across} of them in two splits" in found.message and across > 5
