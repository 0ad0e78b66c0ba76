import itertools
import math
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from mervn.evaluation.intervals import (
    METRICS,
    Array,
    Units,
    group_units,
    holm,
    jackknife_interval,
    mcnemar_mid_p,
    paired_difference,
    score,
    sign_flip_p,
    unit_confusions,
)
from mervn.evaluation.metrics import compute_metrics

CLASSES = 4


def reference(targets: Array, predictions: Array, metric: str) -> float:
    """Return a metric as scikit-learn computes it."""
    if metric == "accuracy":
        return float(accuracy_score(targets, predictions))
    if metric == "uar":
        return float(recall_score(targets, predictions, labels=np.unique(targets), average="macro", zero_division=0))
    average, labels = metric.removesuffix("_f1"), np.unique(targets)
    return float(f1_score(targets, predictions, labels=labels, average=average, zero_division=0))


def simulate(groups: int, seed: int = 0, models: int = 2) -> tuple[list[str], Array, list[Array]]:
    """Return speaker ids, targets and predictions of models whose accuracy depends on the speaker."""
    rng = np.random.default_rng(seed)
    speakers, targets, predictions = [], [], []
    for speaker in range(groups):
        size = int(rng.integers(6, 15))
        true = rng.integers(0, CLASSES, size)
        right = rng.random((models, size)) < rng.uniform(0.2, 0.9, (models, 1))
        speakers += [f"s{speaker:02d}"] * size
        targets.append(true)
        predictions.append(np.where(right, true, rng.integers(0, CLASSES, (models, size))))
    return speakers, np.concatenate(targets), list(np.concatenate(predictions, axis=1))


def confusions_of(groups: int, seed: int = 0) -> tuple[Units, Array, Array]:
    """Return units and the counts of two models."""
    speakers, targets, (first, second) = simulate(groups, seed)
    units = group_units(speakers)
    a, b = (unit_confusions(targets, predictions, units, CLASSES) for predictions in (first, second))
    return units, a, b


# -- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("true_classes", [CLASSES, 3, 1])
@pytest.mark.parametrize("predicted_classes", [CLASSES, 2])
def test_scores_equal_those_of_scikit_learn_and_of_metrics(
    metric: str, true_classes: int, predicted_classes: int
) -> None:
    rng = np.random.default_rng(true_classes)
    targets, predictions = rng.integers(0, true_classes, 50), rng.integers(0, predicted_classes, 50)
    confusion = confusion_matrix(targets, predictions, labels=range(CLASSES))
    found = float(score(confusion, metric))
    assert found == pytest.approx(reference(targets, predictions, metric), abs=1e-12)
    ours = compute_metrics(targets, np.eye(CLASSES)[predictions], list("abcd"))
    assert found == pytest.approx(getattr(ours, metric), abs=1e-12)


def test_scores_of_many_matrices_are_those_of_each_and_depend_on_the_direction_of_the_matrix() -> None:
    counts = np.random.default_rng(1).integers(0, 9, (3, 5, CLASSES, CLASSES))
    for metric in METRICS:
        together = score(counts, metric)
        alone = [float(score(matrix, metric)) for matrix in counts.reshape(-1, CLASSES, CLASSES)]
        assert together.shape == (3, 5) and together.ravel().tolist() == alone
    assert not np.allclose(score(counts, "uar"), score(counts.swapaxes(-1, -2), "uar"))  # negative control
    assert [float(score(np.zeros((2, 2), np.int64), metric)) for metric in METRICS] == [0.0] * 4


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="one of accuracy, macro_f1, uar, weighted_f1, found 'f1'"):
        score(np.eye(2), "f1")


# -- units ---------------------------------------------------------------------------------------------------------


def test_units_are_speakers_with_their_effective_number() -> None:
    units = group_units(["b", "a", "b", "b", "c"])
    assert units.name == "speaker_id" and not units.independent
    assert units.index.tolist() == [1, 0, 1, 1, 2] and units.num == 3
    assert units.effective == pytest.approx(25 / 11)
    assert group_units(["x", "y"] * 4, "film").name == "film"
    assert group_units(["x", "y"] * 4).effective == pytest.approx(2)


def test_a_unit_in_two_unicode_forms_is_one() -> None:
    units = group_units(["Huế", "Vinh", unicodedata.normalize("NFD", "Huế"), " Vinh"])
    assert units.num == 2 and units.index.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("values", [[None, None, None], ["", None, ""], ["a", "b", "c"], [1, 2, None]])
def test_without_known_units_every_utterance_is_one_and_is_assumed_independent(values: list[object]) -> None:
    units = group_units(values)
    assert units.independent and units.name == "utterance"
    assert units.index.tolist() == [0, 1, 2] and units.num == 3 and units.effective == 3


def test_utterances_of_unknown_speakers_among_known_ones_are_one_unit() -> None:
    units = group_units(["a", None, "a", "", "b"])
    assert not units.independent and units.num == 3
    assert units.index[1] == units.index[3] not in (units.index[0], units.index[4])


def test_no_utterances_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one utterance"):
        group_units([])


def test_confusions_per_unit_equal_those_of_scikit_learn() -> None:
    speakers, targets, (predictions, _) = simulate(5)
    units = group_units(speakers)
    found = unit_confusions(targets, predictions, units, CLASSES)
    assert found.dtype == np.int64
    for unit in range(5):
        mine = units.index == unit
        expected = confusion_matrix(targets[mine], predictions[mine], labels=range(CLASSES))
        assert found[unit].tolist() == expected.tolist()


def test_wrong_classes_and_lengths_are_refused() -> None:
    units = group_units(["a", "a", "b"])
    good, outside = np.array([0, 1, 1]), np.array([0, 1, 2])
    with pytest.raises(ValueError, match="predictions must be class indices from 0 to 1, found 0 to 2"):
        unit_confusions(good, outside, units, 2)
    with pytest.raises(ValueError, match="targets must be class indices from 0 to 1, found -1 to 1"):
        unit_confusions(good - np.array([1, 0, 0]), good, units, 2)
    with pytest.raises(ValueError, match="found 2, 3 and 3"):
        unit_confusions(good[:2], good, units, 2)


# -- intervals -----------------------------------------------------------------------------------------------------


def jackknife_by_hand(units: Units, statistic: Callable[[Array], float], level: float) -> tuple[float, float]:
    """Return the delete-one-unit jackknife interval of a statistic of a mask of utterances."""
    values = []
    for unit in range(units.num):
        values.append(statistic(units.index != unit))
    mean = sum(values) / len(values)
    variance = 0.0
    for value in values:
        variance += (value - mean) ** 2 * (units.num - 1) / units.num
    estimate = statistic(np.ones(len(units.index), bool))
    return stats.t.interval(level, units.num - 1, estimate, math.sqrt(variance))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("groups", "level"), [(4, 0.9), (9, 0.95)])
def test_the_interval_equals_a_loop_over_left_out_speakers(metric: str, groups: int, level: float) -> None:
    speakers, targets, (predictions, _) = simulate(groups, 3)
    units = group_units(speakers)

    def statistic(kept: Array) -> float:
        return reference(targets[kept], predictions[kept], metric)

    found = jackknife_interval(unit_confusions(targets, predictions, units, CLASSES), units, metric, level)
    low, high = jackknife_by_hand(units, statistic, level)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((max(low, 0), min(high, 1)), abs=1e-12)
    assert found.method == f"jackknife, t({groups - 1})" and found.unit == "speaker_id"
    assert (found.level, found.groups, found.effective_groups) == (level, groups, units.effective)


def test_the_interval_of_accuracy_with_equal_speakers_is_the_t_interval_of_their_mean() -> None:
    rng = np.random.default_rng(4)
    counts = rng.multinomial(20, [0.4, 0.1, 0.2, 0.3], 7).reshape(7, 2, 2)
    units = group_units([str(i // 20) for i in range(140)])
    found = jackknife_interval(counts, units, "accuracy")
    each = counts.trace(axis1=1, axis2=2) / 20
    expected = stats.t.interval(0.95, 6, each.mean(), stats.sem(each))
    assert found is not None and (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_speakers_is_wider_than_that_of_utterances() -> None:
    speakers, targets, (predictions, _) = simulate(8, 5)
    widths = []
    for units in (group_units(speakers), group_units([None] * len(speakers))):
        found = jackknife_interval(unit_confusions(targets, predictions, units, CLASSES), units, "macro_f1")
        assert found is not None
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1]
    assert found.method == "jackknife, assumes independent utterances" and found.unit == "utterance"


def test_below_four_units_there_is_no_interval_and_a_wrong_level_is_refused() -> None:
    for groups, exists in ((2, False), (3, False), (4, True)):
        units, a, _ = confusions_of(groups)
        assert (jackknife_interval(a, units, "uar") is not None) == exists
    with pytest.raises(ValueError, match="level must be between 0 and 1, found 95"):
        jackknife_interval(a, units, "uar", 95)


def test_intervals_stay_within_the_range_and_a_perfect_score_says_that_its_width_means_nothing() -> None:
    units = group_units([speaker for speaker in "abcd" for _ in range(5)])
    perfect = np.tile(np.diag([3, 2]), (4, 1, 1))
    found = jackknife_interval(perfect, units, "macro_f1")
    assert found is not None and (found.low, found.high) == (1.0, 1.0) and "width 0" in found.method
    perfect[0] = [[0, 3], [2, 0]]
    found = jackknife_interval(perfect, units, "accuracy")
    assert found is not None and found.high == 1.0 and 0 <= found.low < 0.5 and "width" not in found.method
    assert found.as_json()["groups"] == 4 and list(found.as_json())[:3] == ["low", "high", "level"]


# -- paired comparison ---------------------------------------------------------------------------------------------


def exact_p_of_accuracy(a: Array, b: Array) -> float:
    """Return the exact p of all exchanges of two models, as scipy computes it from differences of right answers."""
    change = np.trace(a - b, axis1=1, axis2=2)
    result = stats.permutation_test((change,), np.sum, permutation_type="samples", n_resamples=np.inf)
    return float(result.pvalue)


@pytest.mark.parametrize(("groups", "seed"), [(6, 0), (6, 1), (9, 2), (12, 3)])
def test_sign_flips_equal_the_permutation_test_of_scipy(groups: int, seed: int) -> None:
    _, a, b = confusions_of(groups, seed)
    found = sign_flip_p(a, b, "accuracy")
    assert found == pytest.approx(exact_p_of_accuracy(a, b), abs=1e-12)
    assert found == sign_flip_p(b, a, "accuracy")
    assert 2.0 ** (1 - groups) <= found <= 1


def test_sign_flips_of_macro_f1_equal_a_loop_over_all_exchanges_of_predictions() -> None:
    speakers, targets, (first, second) = simulate(6, 7)
    units = group_units(speakers)
    a, b = (unit_confusions(targets, each, units, CLASSES) for each in (first, second))

    def difference(exchanged: Array) -> float:
        one, two = np.where(exchanged, second, first), np.where(exchanged, first, second)
        return abs(reference(targets, one, "macro_f1") - reference(targets, two, "macro_f1"))

    observed = difference(np.zeros(len(targets), bool))
    flips = [np.array(flip)[units.index] for flip in itertools.product([False, True], repeat=6)]
    expected = np.mean([difference(flip) >= observed - 1e-12 for flip in flips])
    assert sign_flip_p(a, b, "macro_f1") == pytest.approx(expected)
    by_utterance = group_units([None] * len(targets))
    a, b = (unit_confusions(targets, each, by_utterance, CLASSES) for each in (first, second))
    assert abs(sign_flip_p(a, b, "macro_f1") - expected) > 0.01  # negative control: the unit matters


def test_draws_are_close_to_the_exact_p_repeatable_and_never_zero() -> None:
    _, a, b = confusions_of(15, 11)
    assert (a != b).any((1, 2)).sum() > 12
    found, exact = sign_flip_p(a, b, "accuracy"), exact_p_of_accuracy(a, b)
    assert abs(found - exact) < 5 * math.sqrt(exact * (1 - exact) / 9999) + 2e-4
    assert found == sign_flip_p(a, b, "accuracy") == sign_flip_p(b, a, "accuracy") != exact
    best, worst = np.tile(np.diag([5, 5]), (40, 1, 1)), np.tile(np.array([[0, 5], [5, 0]]), (40, 1, 1))
    assert sign_flip_p(best, worst, "macro_f1") == 1 / 10_000


def test_units_without_a_difference_do_not_change_p() -> None:
    _, a, b = confusions_of(8, 12)
    same = np.repeat(a[:3], 4, axis=0)
    longer = np.concatenate([a, same]), np.concatenate([b, same])
    assert sign_flip_p(*longer, "accuracy") == sign_flip_p(a, b, "accuracy") == exact_p_of_accuracy(a, b)


@pytest.mark.parametrize("metric", METRICS)
def test_the_paired_interval_equals_a_loop_over_left_out_speakers(metric: str) -> None:
    speakers, targets, (first, second) = simulate(7, 13)
    units = group_units(speakers)
    a, b = (unit_confusions(targets, each, units, CLASSES) for each in (first, second))

    def statistic(kept: Array) -> float:
        one, two = (reference(targets[kept], each[kept], metric) for each in (first, second))
        return one - two

    found = paired_difference(a, b, units, metric)
    assert found.difference == pytest.approx(statistic(np.ones(len(targets), bool)), abs=1e-12)
    assert found.interval is not None
    expected = jackknife_by_hand(units, statistic, 0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx(expected, abs=1e-12)
    assert found.p == sign_flip_p(a, b, metric) and found.test == "sign flips by speaker_id"
    assert (found.groups, found.effective_groups) == (7, units.effective)
    turned = paired_difference(b, a, units, metric)
    assert turned.difference == -found.difference and turned.p == found.p
    assert found.as_json()["interval"]["method"] == "jackknife, t(6)"


def test_the_smallest_difference_is_found_with_a_power_of_four_fifths() -> None:
    units, a, b = confusions_of(20, 14)
    found = paired_difference(a, b, units, "macro_f1")
    assert found.interval is not None and found.smallest_difference is not None
    critical = stats.t.ppf(0.975, 19)
    error = (found.interval.high - found.interval.low) / 2 / critical
    for factor, low, high in ((1.0, 0.78, 0.82), (0.5, 0.2, 0.4)):
        shift = factor * found.smallest_difference / error
        power = stats.nct.sf(critical, 19, shift) + stats.nct.cdf(-critical, 19, shift)
        assert low < power < high


def test_below_six_units_there_is_no_test_and_below_four_no_interval() -> None:
    for groups, has_interval, has_test in ((3, False, False), (4, True, False), (5, True, False), (6, True, True)):
        units, a, b = confusions_of(groups)
        found = paired_difference(a, b, units, "macro_f1")
        assert (found.interval is not None, found.p is not None) == (has_interval, has_test)
        assert (found.smallest_difference is not None) == has_test
        assert has_test or found.test == "none: fewer than 6 units (speaker_id)"
    # with 6 units, the smallest p is 1/32: no difference is significant at 1 %
    strict = paired_difference(a, b, units, "macro_f1", 0.99)
    assert strict.p is not None and strict.smallest_difference is None


def test_identical_models_never_differ() -> None:
    for groups in (6, 12, 30):
        units, a, _ = confusions_of(groups)
        for metric in METRICS:
            found = paired_difference(a, a, units, metric)
            assert (found.difference, found.p, found.smallest_difference) == (0, 1, None)
            assert found.interval is not None and (found.interval.low, found.interval.high) == (0, 0)


def test_other_utterances_or_labels_are_refused() -> None:
    units, a, b = confusions_of(6)
    for other in (b[:5], b[::-1]):
        with pytest.raises(ValueError, match="same utterances and labels in every unit"):
            paired_difference(a, other, units, "uar")


def test_independent_utterances_are_tested_by_mcnemar_and_labelled() -> None:
    _, targets, (first, second) = simulate(9, 16)
    units = group_units([None] * len(targets))
    a, b = (unit_confusions(targets, each, units, CLASSES) for each in (first, second))
    only_a = int(((first == targets) & (second != targets)).sum())
    only_b = int(((first != targets) & (second == targets)).sum())
    found = paired_difference(a, b, units, "accuracy")
    assert only_a != only_b and found.p == mcnemar_mid_p(only_a, only_b)
    assert found.test == "mid-p McNemar, assumes independent utterances"
    other = paired_difference(a, b, units, "macro_f1")
    assert other.p is not None and other.test == "sign flips by utterance, assumes independent utterances"
    # exchanges of single utterances are the exact McNemar test, drawn
    exact = stats.binomtest(only_a, only_a + only_b).pvalue
    assert exact < 0.9 and sign_flip_p(a, b, "accuracy") == pytest.approx(exact, abs=0.02)


# -- p-values ------------------------------------------------------------------------------------------------------


def test_the_mid_p_of_mcnemar_equals_the_textbook() -> None:
    # Fagerland, Lydersen, Laake 2013, table 1: 1 and 7 discordant pairs, exact p 0.070, mid-p 0.039
    assert round(mcnemar_mid_p(1, 7), 3) == 0.039
    for only_a, only_b in ((0, 1), (3, 9), (20, 11), (150, 120)):
        both = only_a + only_b
        exact = stats.binomtest(only_a, both).pvalue
        expected = exact - stats.binom.pmf(only_a, both, 0.5)
        assert mcnemar_mid_p(only_a, only_b) == pytest.approx(expected) == mcnemar_mid_p(only_b, only_a)
        assert mcnemar_mid_p(only_a, only_b) < exact  # negative control: it is not the exact test
    assert mcnemar_mid_p(0, 0) == mcnemar_mid_p(4, 4) == pytest.approx(1)
    with pytest.raises(ValueError, match="must not be negative, found -1 and 3"):
        mcnemar_mid_p(-1, 3)


def test_the_mid_p_of_mcnemar_is_the_exact_p_of_statsmodels_less_half_of_the_observed_table() -> None:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    for only_a, only_b in ((1, 7), (3, 9), (20, 11), (150, 120)):
        exact = contingency.mcnemar([[50, only_a], [only_b, 40]], exact=True).pvalue
        assert mcnemar_mid_p(only_a, only_b) == pytest.approx(exact - stats.binom.pmf(only_a, only_a + only_b, 0.5))


def holm_by_hand(values: list[float]) -> list[float]:
    """Return for each p the maximum, over all p up to it, of min(1, p * number of p that are not smaller)."""
    adjusted = []
    for value in values:
        smaller = [other for other in values if other <= value]
        steps = [min(1.0, other * sum(each >= other for each in values)) for other in smaller]
        adjusted.append(max(steps))
    return adjusted


RANDOM_FAMILY = np.random.default_rng(16).random(30).tolist()
FAMILIES = [[0.01, 0.04, 0.03, 0.005], [0.5], [0.9, 0.8, 0.7], RANDOM_FAMILY, [0.02, 0.02, 0.5]]


def test_holm_equals_the_textbook() -> None:
    for family in FAMILIES:
        found = holm(family)
        assert found == pytest.approx(holm_by_hand(family))
        assert all(adjusted >= p for adjusted, p in zip(found, family, strict=True))
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Bonferroni: 0.04, 0.16, ...
    assert holm([]) == []


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for family in FAMILIES:
        assert holm(family) == pytest.approx(multitest.multipletests(family, method="holm")[1])


@pytest.mark.parametrize("wrong", [[0.1, 1.5], [-0.1], [math.nan]])
def test_holm_refuses_what_is_no_p(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="p-values must be from 0 to 1"):
        holm(wrong)
