"""Evidence beside scores: means over seeds, the widest of several units, scores by group."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from mervn.evaluation.evidence import ScoredUtterances, evidence, pooled, stacked_confusions, widest
from mervn.evaluation.intervals import METRICS, Interval, group_units, jackknife_interval, score, unit_confusions

RNG = np.random.default_rng(0)
LABELS = ("angry", "happy", "sad")
TARGETS = RNG.integers(0, 3, 120)
SPEAKERS = [f"s{i % 9}" for i in range(120)]


def seed(right: float, **units: list[Any]) -> ScoredUtterances:
    predictions = np.where(RNG.random(120) < right, TARGETS, RNG.integers(0, 3, 120))
    groups = {"dialect": ["north" if i < 30 else "south" for i in range(120)]}
    return ScoredUtterances(TARGETS, predictions, units or {"speaker_id": SPEAKERS}, groups)


@pytest.mark.parametrize("metric", METRICS)
def test_the_score_of_stacked_seeds_is_the_mean_of_their_scores(metric: str) -> None:
    seeds = [seed(0.9).predictions, seed(0.5).predictions, seed(0.3).predictions]
    units = group_units(SPEAKERS)
    stacked = stacked_confusions(TARGETS, seeds, units, 3)
    alone = [unit_confusions(TARGETS, one, units, 3) for one in seeds]
    # of all speakers, and of all but one, which the jackknife sums
    for left_out in (None, 0, 5):
        total = stacked.sum(0) if left_out is None else stacked.sum(0) - stacked[left_out]
        each = [one.sum(0) if left_out is None else one.sum(0) - one[left_out] for one in alone]
        assert score(total, metric) == pytest.approx(np.mean([score(one, metric) for one in each]))
    together = sum(one.sum(0) for one in alone)  # negative control
    if metric in ("macro_f1", "weighted_f1"):
        assert score(np.asarray(together), metric) != pytest.approx(score(stacked.sum(0), metric), abs=1e-4)


def test_one_seed_gives_the_interval_of_its_confusion_matrices() -> None:
    one, units = seed(0.7), group_units(SPEAKERS)
    found = evidence([one], LABELS)
    confusions = unit_confusions(TARGETS, one.predictions, units, 3)
    for metric in METRICS:
        interval = jackknife_interval(confusions, units, metric)
        assert interval is not None and found["intervals"][metric] == interval.as_json()
    (unit,) = found["units"]
    assert (unit["key"], unit["unit"], unit["groups"]) == ("speaker_id", "speaker_id", 9)
    assert unit["effective_groups"] == pytest.approx(units.effective) and not unit["independent"]
    assert found["baselines"]["chance"]["accuracy"] == pytest.approx(1 / 3)


def test_of_several_units_the_widest_interval_is_reported_with_its_unit() -> None:
    sentences = [f"t{i // 30}" for i in range(120)]  # 4 units
    one = seed(0.7, speaker_id=SPEAKERS, transcript=sentences)
    both = evidence([one], LABELS)
    alone = {}
    for key, values in one.units.items():
        single = ScoredUtterances(TARGETS, one.predictions, {key: values}, {})
        alone[key] = evidence([single], LABELS)["intervals"]
    for metric in METRICS:
        widths = {key: found[metric]["high"] - found[metric]["low"] for key, found in alone.items()}
        chosen = max(widths, key=lambda key: widths[key])
        assert both["intervals"][metric] == alone[chosen][metric]
        assert both["intervals"][metric]["unit"] == chosen
    assert [unit["groups"] for unit in both["units"]] == [9, 4]


def test_without_four_units_of_every_key_there_is_no_interval() -> None:
    found = evidence([seed(0.7, speaker_id=SPEAKERS, room=[f"r{i % 3}" for i in range(120)])], LABELS)
    assert found["intervals"] == dict.fromkeys(METRICS)
    interval = Interval(0.1, 0.2, 0.95, "jackknife", "speaker_id", 9, 9.0)
    assert widest([interval, None]) is None and widest([interval]) == interval


def test_unknown_speakers_make_independent_utterances() -> None:
    found = evidence([seed(0.7, speaker_id=[None] * 120)], LABELS)
    assert found["units"][0]["independent"] and found["units"][0]["groups"] == 120
    assert "assumes independent utterances" in found["intervals"]["uar"]["method"]


def test_scores_by_group_are_those_of_the_utterances_of_the_group() -> None:
    seeds = [seed(0.8), seed(0.4)]
    found = evidence(seeds, LABELS)["by"]["dialect"]
    assert list(found) == ["north", "south"] and found["north"]["n"] == 30 and found["south"]["groups"] == 9
    for value, part in (("north", slice(0, 30)), ("south", slice(30, None))):
        true, predicted = TARGETS[part], [one.predictions[part] for one in seeds]
        macro = [f1_score(true, one, labels=range(3), average="macro", zero_division=0) for one in predicted]
        uar = [recall_score(true, one, labels=np.unique(true), average="macro") for one in predicted]
        assert found[value]["macro_f1"] == pytest.approx(np.mean(macro))
        assert found[value]["uar"] == pytest.approx(np.mean(uar))
        assert found[value]["accuracy"] == pytest.approx(np.mean([(one == true).mean() for one in predicted]))


def test_folds_are_put_one_after_the_other() -> None:
    one, two = seed(0.5), seed(0.9)
    found = pooled([one, two])
    assert np.array_equal(found.predictions, np.concatenate([one.predictions, two.predictions]))
    assert found.units["speaker_id"] == SPEAKERS * 2 and len(found.groups["dialect"]) == 240
