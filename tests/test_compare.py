"""Comparison of saved predictions: exact numbers, planted cases, refusals, and the verdict in words."""

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_runs import LABELS, Array, answers, make_utterances, with_predictions, write_run, write_series
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score
from tiny import read_jsonl

from cli.main import run as mervn
from features.errors import InputError, UsageError
from mervn.config import CompareOptions
from mervn.evaluation.compare import compare, over_seeds
from mervn.evaluation.verdict import document, seed_remark, sentence
from mervn.run_folder import write_json, write_jsonl

Captured = pytest.CaptureFixture[str]
ACCURACY = CompareOptions(metric="accuracy")


def macro_f1(entries: Sequence[dict[str, Any]], predicted: Sequence[str], chosen: Array | None = None) -> float:
    """Return macro-F1 as scikit-learn computes it, of some utterances."""
    targets, found = np.array([entry["label"] for entry in entries]), np.array(predicted)
    if chosen is not None:
        targets, found = targets[chosen], found[chosen]
    return float(f1_score(targets, found, labels=list(LABELS), average="macro", zero_division=0))


def speakers_of(entries: Sequence[dict[str, Any]]) -> Array:
    return np.array([entry["speaker_id"] for entry in entries])


def mean_difference(entries: Any, a: Any, b: Any, chosen: Array | None = None) -> float:
    """Return the mean over seeds of the difference of macro-F1."""
    pairs = zip(a, b, strict=True)
    return float(np.mean([macro_f1(entries, one, chosen) - macro_f1(entries, two, chosen) for one, two in pairs]))


def test_difference_interval_and_p_of_several_seeds_equal_those_of_scikit_learn(tmp_path: Path) -> None:
    entries = make_utterances(7, 9)
    a = [answers(entries, 0.75, seed) for seed in range(3)]
    b = [answers(entries, 0.6, 10 + seed) for seed in range(3)]
    found = compare(
        write_series(tmp_path / "a", entries, a), write_series(tmp_path / "b", entries, b), CompareOptions()
    )
    assert found.scores_a == pytest.approx([macro_f1(entries, one) for one in a])
    paired, speakers = found.decisive.paired, speakers_of(entries)
    assert paired.difference == pytest.approx(mean_difference(entries, a, b))
    names = sorted(set(speakers))
    without = np.array([mean_difference(entries, a, b, speakers != name) for name in names])
    error = np.sqrt(6 / 7 * ((without - without.mean()) ** 2).sum())
    half = stats.t.ppf(0.975, 6) * error
    assert paired.interval is not None
    assert paired.interval.low == pytest.approx(paired.difference - half)
    assert paired.interval.high == pytest.approx(paired.difference + half)
    exchanged = []
    for flips in itertools.product((False, True), repeat=7):
        flipped = np.isin(speakers, [name for name, flip in zip(names, flips, strict=True) if flip])
        first = [np.where(flipped, two, one) for one, two in zip(a, b, strict=True)]
        second = [np.where(flipped, one, two) for one, two in zip(a, b, strict=True)]
        exchanged.append(abs(mean_difference(entries, first, second)))
    assert paired.p == pytest.approx(np.mean(np.array(exchanged) >= abs(paired.difference) - 1e-12))
    # negative control: the score of all seeds thrown together is another number
    together = macro_f1(entries * 3, [label for one in a for label in one])
    together -= macro_f1(entries * 3, [label for one in b for label in one])
    assert paired.difference != pytest.approx(together, abs=1e-6)


def test_a_planted_difference_is_found_and_no_difference_is_not(tmp_path: Path) -> None:
    entries = make_utterances(20)
    good = write_run(tmp_path / "good", entries, answers(entries, 0.8, 0))
    same = write_run(tmp_path / "same", entries, answers(entries, 0.8, 1))
    poor = write_run(tmp_path / "poor", entries, answers(entries, 0.5, 2))
    scores = [macro_f1(entries, answers(entries, rate, seed)) for rate, seed in ((0.8, 0), (0.5, 2))]
    for a, b, sign in ((good, poor, 1), (poor, good, -1)):
        found = compare(a, b, CompareOptions())
        assert found.verdict == "difference" and np.sign(found.decisive.paired.difference) == sign
        text = sentence(found)
        assert text.startswith(f"{good} is better than {poor} by 0.")
        assert text.endswith(f": {scores[0]:.4f} against {scores[1]:.4f}.")
        low, high = map(float, re.findall(r"interval (\S+) to (\S+),", text)[0])
        assert 0 < low < abs(found.decisive.paired.difference) < high
        assert re.search(r"p = 0\.0\d+, G = 20 speakers, G\* = 20\.0", text)
    found = compare(good, same, CompareOptions())
    smallest = found.decisive.paired.smallest_difference
    assert found.verdict == "no_difference" and smallest is not None and 0 < smallest < 0.3
    assert "The data cannot show a difference" in sentence(found)
    assert f"the smallest difference that the 20 speakers could show is about {smallest:.4f}" in sentence(found)


def test_one_seed_of_each_can_differ_where_five_seeds_show_nothing(tmp_path: Path) -> None:
    """The setting has no effect, but the seed has one: seed 0 is lucky for A, another one for B."""
    entries = make_utterances(20)
    rates_a, rates_b = [0.8, 0.6, 0.6, 0.7, 0.7], [0.6, 0.8, 0.7, 0.6, 0.7]
    a = [answers(entries, rate, seed) for seed, rate in enumerate(rates_a)]
    b = [answers(entries, rate, 50 + seed) for seed, rate in enumerate(rates_b)]
    series_a, series_b = write_series(tmp_path / "a", entries, a), write_series(tmp_path / "b", entries, b)
    single = compare(series_a / "seed-0", series_b / "seed-0", CompareOptions())
    assert single.verdict == "difference" and single.over_seeds is None
    remark = seed_remark(single) or ""
    assert "One seed of each cannot separate the setting from the seed" in remark and "--num-seeds 5" in remark
    both = compare(series_a, series_b, CompareOptions())
    assert both.verdict == "no_difference" and len(both.pairs) == 5
    assert both.over_seeds is not None and both.over_seeds.low < 0 < both.over_seeds.high
    assert "cannot show a difference" in sentence(both) and "means of 5 seeds" in sentence(both)
    # the seeds differ more than the speakers, so they limit what can be shown
    error = both.over_seeds.std / 5**0.5
    smallest = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * error
    assert f"the smallest difference that the 5 seeds could show is about {smallest:.4f}" in sentence(both)


def test_a_difference_that_changes_with_the_seed_is_not_one_of_the_setting(tmp_path: Path) -> None:
    entries = make_utterances(30)
    a = [answers(entries, rate, seed) for seed, rate in enumerate((0.9, 0.55, 0.7))]
    b = [answers(entries, 0.6, 50 + seed) for seed in range(3)]
    found = compare(
        write_series(tmp_path / "a", entries, a), write_series(tmp_path / "b", entries, b), CompareOptions()
    )
    assert found.decisive.is_shown and found.verdict == "seeds_disagree"
    needed = found.over_seeds.seeds_needed if found.over_seeds else None
    assert needed is not None and f"about {needed} seeds would be needed" in sentence(found)
    assert "cannot show a difference between the settings" in sentence(found) and seed_remark(found) is None


def test_the_interval_over_seeds_is_that_of_scipy() -> None:
    values = [0.04, 0.01, 0.05, 0.02]
    found = over_seeds(values)
    assert found is not None and over_seeds([0.1]) is None
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.seeds_needed is not None
    for count, is_enough in ((found.seeds_needed, True), (found.seeds_needed - 1, False)):
        half = stats.t.ppf(0.975, count - 1) * found.std / count**0.5
        assert (half < found.mean) == is_enough
    assert over_seeds([1e-9, 1.0, -1.0]).seeds_needed is None  # type: ignore[union-attr]


@pytest.mark.parametrize(("speakers", "interval"), [(3, False), (5, True)])
def test_with_few_speakers_no_test_is_possible(tmp_path: Path, speakers: int, interval: bool) -> None:
    entries = make_utterances(speakers)
    a = write_run(tmp_path / "a", entries, answers(entries, 0.9, 0))
    found = compare(a, write_run(tmp_path / "b", entries, answers(entries, 0.4, 1)), CompareOptions())
    assert found.verdict == "no_test" and found.decisive.paired.p is None
    text = sentence(found)
    assert f"No test is possible between {a}" in text and f"found {speakers} speakers" in text
    assert "significant" not in text and ("95 % interval" in text) == interval
    assert ("no interval below 4 units" in text) != interval


def test_unknown_speakers_make_utterances_independent_and_the_sentence_says_so(tmp_path: Path) -> None:
    entries = make_utterances(4, known=False)
    predicted = [answers(entries, 0.8, 0), answers(entries, 0.6, 1)]
    runs = [write_run(tmp_path / name, entries, one) for name, one in zip("ab", predicted, strict=True)]
    found = compare(*runs, ACCURACY)
    right = np.array([[entry["label"] for entry in entries] == np.array(one) for one in predicted])
    counts = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    mid_p = stats.binomtest(min(counts), sum(counts)).pvalue - stats.binom.pmf(min(counts), sum(counts), 0.5)
    assert found.decisive.paired.p == pytest.approx(mid_p)
    assert "McNemar" in found.decisive.paired.test and "assumes independent utterances" in sentence(found)
    series = [write_series(tmp_path / f"series-{n}", entries, [predicted[n], predicted[n]]) for n in range(2)]
    several = compare(*series, ACCURACY)
    assert several.decisive.paired.test == "sign flips by utterance, assumes independent utterances"
    assert several.decisive.paired.difference == pytest.approx(found.decisive.paired.difference)


def test_of_several_units_the_most_cautious_counts(tmp_path: Path) -> None:
    entries = [{**entry, "sentence": f"t{i % 8}"} for i, entry in enumerate(make_utterances(20))]
    entries_few = [{**entry, "sentence": f"t{i % 5}"} for i, entry in enumerate(entries)]
    for number, some in enumerate((entries, entries_few)):
        a = write_run(tmp_path / f"a{number}", some, answers(some, 0.8, 0))
        b = write_run(tmp_path / f"b{number}", some, answers(some, 0.5, 2))
        found = compare(a, b, CompareOptions(unit=("speaker_id", "sentence")))
        assert [each.key for each in found.by_unit] == ["speaker_id", "sentence"]
        widths = {each.key: each.paired.interval.high - each.paired.interval.low for each in found.by_unit}  # type: ignore[union-attr]
        if number == 0:
            assert found.decisive.key == max(widths, key=lambda key: widths[key])
        else:
            assert found.decisive.key == "sentence" and found.verdict == "no_test"  # 5 sentences


def test_a_difference_of_many_speakers_in_one_room_is_not_one_of_rooms(tmp_path: Path) -> None:
    """A is better for the 12 speakers of one room, and equal for the 12 of the 7 other rooms."""
    entries = make_utterances(24)
    for i, entry in enumerate(entries):
        speaker = i // 20
        entry["room"] = "r0" if speaker < 12 else f"r{1 + speaker % 7}"
    same = answers(entries, 0.6, 0)
    better = [entry["label"] if entry["room"] == "r0" else label for entry, label in zip(entries, same, strict=True)]
    a, b = write_run(tmp_path / "a", entries, better), write_run(tmp_path / "b", entries, same)
    assert compare(a, b, CompareOptions()).verdict == "difference"
    for unit in (("room",), ("speaker_id", "room"), ("room", "speaker_id")):
        found = compare(a, b, CompareOptions(unit=unit))
        assert found.verdict == "no_difference" and found.decisive.key == "room"
        assert "G = 8 values of room" in sentence(found)


def test_the_order_of_the_lines_does_not_matter_and_the_data_are_not_read(tmp_path: Path) -> None:
    entries = make_utterances(8)
    a = write_run(tmp_path / "a", entries, answers(entries, 0.8, 0))
    b = write_run(tmp_path / "b", entries, answers(entries, 0.5, 1))
    expected = document(compare(a, b, CompareOptions()))
    lines = (b / "predictions-test.jsonl").read_text().splitlines(keepends=True)
    (b / "predictions-test.jsonl").write_text("".join(lines[::-1]))
    assert document(compare(a, b, CompareOptions())) == expected
    assert not Path("/nowhere").exists()


def test_folds_are_pooled_and_paired(tmp_path: Path) -> None:
    entries = make_utterances(8)
    predicted = {"a": answers(entries, 0.8, 0), "b": answers(entries, 0.5, 1)}
    for name, labels in predicted.items():
        for fold, part in ((1, slice(0, 90)), (2, slice(90, None))):
            write_run(tmp_path / name / f"fold-{fold}", entries[part], labels[part], fold=str(fold))
        write_json(tmp_path / name / "summary.json", {"seeds": [0], "folds": {"1": {}, "2": {}}})
    found = compare(tmp_path / "a", tmp_path / "b", CompareOptions())
    assert found.n == 160 and found.scores_a == pytest.approx([macro_f1(entries, predicted["a"])])
    assert found.decisive.units.num == 8 and found.configuration == {}
    with pytest.raises(InputError, match="must have the same folds, but .*a has fold 1, 2 and .* has fold 2"):
        compare(tmp_path / "a", tmp_path / "b" / "fold-2", CompareOptions())


def test_seeds_are_paired_and_the_others_are_named(tmp_path: Path) -> None:
    entries = make_utterances(8)
    predicted = [answers(entries, 0.7, seed) for seed in range(6)]
    a, b = write_series(tmp_path / "a", entries, predicted[:3]), write_series(tmp_path / "b", entries, predicted[3:5])
    found = compare(a, b, CompareOptions())
    assert found.pairs == [(0, 0), (1, 1)] and found.left_out == [f"seed 2 of {a}"]
    found = compare(a / "seed-2", b / "seed-0", CompareOptions())  # two runs are a pair
    assert found.pairs == [(2, 0)] and found.configuration == {"seed": (2, 0)}
    with pytest.raises(InputError, match="must have seeds in common, but .* has 2 and .* has 0, 1"):
        compare(a / "seed-2", b, CompareOptions())


def damage(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    """Return a function that changes the lines of a run's predictions, and the count beside them."""

    def apply(run: Path) -> None:
        lines = read_jsonl(run / "predictions-test.jsonl")
        change(lines)
        write_jsonl(run / "predictions-test.jsonl", lines)
        write_json(run / "metrics-test.json", {"manifest_sha256": "2", "test": {"n": len(lines)}})

    return apply


def cut(run: Path) -> None:
    path = run / "predictions-test.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 20])


def cut_between_lines(run: Path) -> None:
    path = run / "predictions-test.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:60]))


def other_labels(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {**config, "labels": ["angry", "happy", "sad", "neutral"]})


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda run: (run / "predictions-test.jsonl").unlink(),
        r"b has no predictions for test; evaluate it first:\n  mervn evaluate \S+b --split test",
    ),
    "cut": (cut, r"predictions-test.jsonl:\d+: must be one JSON object, found: .*; evaluate the run again:\n  mervn"),
    "cut between lines": (cut_between_lines, "must hold the 120 utterances that were scored, found 60; evaluate"),
    "fewer": (damage(lambda lines: lines.pop(3)), "the same utterances, but only .*a.* has 1 of them, such as 'u0003'"),
    "another": (
        damage(lambda lines: lines[3].update(utterance_id="x")),
        "only .*a/.* has 1 of them, such as 'u0003' and only .*b/.* has 1 of them, such as 'x'",
    ),
    "twice": (
        damage(lambda lines: lines.append(lines[0])),
        "jsonl:121: utterance_id must occur once, found 'u0000' in line 1 too",
    ),
    "true label": (
        damage(lambda lines: lines[4].update(label="sad")),
        "the same label of each utterance, but 'u0004' has 'happy' in .* and 'sad' in ",
    ),
    "speaker": (damage(lambda lines: lines[4].update(speaker_id="x")), "the same speaker_id of each utterance"),
    "label unknown": (
        damage(lambda lines: lines[4].update(prediction="bored")),
        "jsonl:5: prediction must be one of the run's labels angry, happy, sad, found 'bored'",
    ),
    "probabilities": (
        damage(lambda lines: lines[4].update(probabilities={"angry": 1, "happy": 1, "sad": 1})),
        "jsonl:5: probabilities must be 0 or more and sum to 1",
    ),
    "labels": (other_labels, "must have the same labels, but .*a has angry, happy, sad and .*b has .*, sad, n"),
    "test set": (
        lambda run: write_json(run / "metrics-test.json", {"manifest_sha256": "3", "test": {"n": 120}}),
        r"must be for the same data, but .* differ in manifest_sha256 \(2 and 3\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_predictions_that_do_not_belong_together_are_refused(tmp_path: Path, fault: str) -> None:
    entries = make_utterances(6)
    a = write_run(tmp_path / "a", entries, answers(entries, 0.8, 0))
    b = write_run(tmp_path / "b", entries, answers(entries, 0.5, 1))
    assert compare(a, b, CompareOptions()).n == 120
    change, message = REFUSED[fault]
    change(b)
    with pytest.raises(InputError, match=message):
        compare(a, b, CompareOptions())


def test_a_key_that_the_predictions_lack_is_named_with_the_command_that_saves_it(tmp_path: Path) -> None:
    entries = make_utterances(6)
    a = write_run(tmp_path / "a", entries, answers(entries, 0.8, 0))
    with pytest.raises(InputError, match=r"has no 'speaker'; did you mean speaker_id\?.*\n  mervn evaluate .* --unit"):
        compare(a, a, CompareOptions(unit=("speaker",)))
    with pytest.raises(UsageError, match="--unit must name keys of the manifest, .* found 'label', which is a result"):
        compare(a, a, CompareOptions(unit=("speaker_id", "label")))
    with pytest.raises(UsageError, match="must be the folder of a run or of a series"):
        compare(a, tmp_path / "nowhere", CompareOptions())


def test_a_series_that_lacks_a_run_is_refused(tmp_path: Path) -> None:
    entries = make_utterances(6)
    a = write_series(tmp_path / "a", entries, [answers(entries, 0.8, seed) for seed in range(2)])
    shutil.copytree(a / "seed-0", a / "copy")
    shutil.rmtree(a / "seed-1")
    with pytest.raises(InputError, match="names the run .*seed-1, but it does not exist; train it again"):
        compare(a, a, CompareOptions())
    (a / "copy").rename(a / "seed-1")
    with pytest.raises(InputError, match="seed-1 must be the run that its path names, found seed 0"):
        compare(a, a, CompareOptions())
    write_json(a / "summary.json", {"seeds": "0"})
    with pytest.raises(InputError, match="must hold the seeds and folds of a series"):
        compare(a, a, CompareOptions())


def test_the_command_prints_the_verdict_what_differs_and_a_document(tmp_path: Path, capsys: Captured) -> None:
    entries = make_utterances(10)
    a = write_run(tmp_path / "a", entries, answers(entries, 0.8, 0), fusion="xattn", dim=64)
    b = write_run(tmp_path / "b", entries, answers(entries, 0.5, 1), fusion="late", dim=64)
    of = compare(a, b, CompareOptions())
    assert mervn(["compare", str(a), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{a} is better than {b} by ") and lines[1].startswith("One seed of each")
    chance, majority = (f"{of.baselines[name]['macro_f1']:.4f}" for name in ("chance", "majority"))
    assert lines[2] == (
        f"On these utterances, the macro-F1 of chance is {chance}, that of the majority (always answer "
        f"{of.baselines['majority']['label']}) is {majority}."
    )
    assert float(majority) == pytest.approx(macro_f1(entries, [of.baselines["majority"]["label"]] * 200), abs=1e-4)
    assert [line.split() for line in lines[3:]] == [["configuration", "A", "B"], ["fusion", '"xattn"', '"late"']]
    assert mervn(["compare", str(a), str(a), "--metric", "accuracy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "no_difference" and found["configuration"] == {}
    assert found["difference"]["difference"] == 0 and found["difference"]["p"] == 1
    right = accuracy_score([entry["label"] for entry in entries], answers(entries, 0.8, 0))
    assert found["a"]["mean"] == pytest.approx(right) and found["n"] == 200
    assert "do not differ on any unit" in found["sentence"] and found["baselines"] == of.baselines


def test_predictions_of_valid_are_compared_as_training_saved_them(tmp_path: Path) -> None:
    entries = make_utterances(6)
    runs = []
    for name, rate in (("a", 0.9), ("b", 0.5)):
        run = write_run(tmp_path / name, entries, answers(entries, rate, 0), split="valid")
        write_json(run / "metrics.json", {"valid": {"n": 120}})
        (run / "metrics-valid.json").unlink()
        runs.append(run)
    assert compare(*runs, CompareOptions(split="valid")).n == 120
    write_jsonl(runs[1] / "predictions-valid.jsonl", with_predictions(entries[:50], answers(entries[:50], 0.5, 0)))
    with pytest.raises(InputError, match="must hold the 120 utterances that were scored, found 50"):
        compare(*runs, CompareOptions(split="valid"))


def test_predictions_of_earlier_weights_are_refused(tmp_path: Path) -> None:
    entries = make_utterances(8)
    runs = [write_run(tmp_path / name, entries, answers(entries, 0.7, seed)) for seed, name in enumerate("ab")]
    (runs[0] / "model.safetensors").write_bytes(b"first")
    path = runs[0] / "metrics-test.json"
    write_json(path, {**json.loads(path.read_text()), "model_sha256": hashlib.sha256(b"first").hexdigest()})
    assert compare(*runs, CompareOptions()).n == 160
    (runs[0] / "model.safetensors").write_bytes(b"second")
    with pytest.raises(InputError, match=r"must be of the weights in .*, but these have changed since; evaluate"):
        compare(*runs, CompareOptions())
