"""Test of a shortcut: whether a classifier that sees one trait beats chance on new speakers.

The classifier is naive Bayes with equal priors over the symbols of an utterance, such as its whole
transcript, or the parts of its id. It predicts each fold from the others, and no group of utterances
is in two folds. Its score is the unweighted average recall (UAR): a prediction that does not depend
on the label has a UAR of 1 / C, whatever the frequencies of the C labels. The interval is the
delete-one-group jackknife with t(G - 1) (Cameron, Gelbach, Miller 2008, "Bootstrap-Based
Improvements for Inference with Clustered Errors"). Its error is multiplied by sqrt(2): if two groups
agree by chance, each raises the score of the other, so the pair counts twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from features.audit.corpus import index_of

Array = np.ndarray[Any, Any]
NUM_FOLDS = 5
MIN_GROUPS = 4
"""With fewer groups, the jackknife has no useful interval, and nothing is tested."""
MAX_AGREEMENT = 0.01
"""Nothing is tested if all groups could agree with a higher probability by chance: the jackknife sees
no difference between such groups, so its bound would be certain."""
LEVEL = 0.999
"""One-sided level of the interval: a check of a corpus tests several traits, and is run often."""
SMOOTHING = 0.5
TIE = 1e-9
MAX_BINS = 8


@dataclass(frozen=True)
class Association:
    """Score of a classifier that sees one trait, on groups that it was not fitted to."""

    uar: float
    chance: float
    """1 / C for the C labels that were tested."""
    low: float
    """Lower bound of the UAR at `LEVEL`, or at a higher one for several tests."""
    groups: int

    def beats_chance(self, min_skill: float = 0.0) -> bool:
        """Tell whether the bound is above chance, and the score at least `min_skill` of the way to 1."""
        skill = (self.uar - self.chance) / (1 - self.chance)
        return self.low > self.chance + TIE and skill >= min_skill

    def __str__(self) -> str:
        return f"UAR {self.uar:.2f}, at least {self.low:.2f}; chance {self.chance:.2f}; {self.groups} groups"


@dataclass(frozen=True)
class Symbols:
    """Pairs of an utterance and a symbol that it has: P pairs, each once, in the order of the utterances."""

    utterances: Array
    """Index of the utterance of each pair, (P,) int64."""
    symbols: Array
    """Number of the symbol of each pair, (P,) int64."""


def association(
    present: Symbols, targets: Array, groups: Array, folds: Array | None = None, num_tests: int = 1
) -> Association | None:
    """Test whether the symbols of N utterances tell their labels.

    `targets` (N,) int64 are the labels, -1 if unknown, and `groups` (N,) int64 the groups. `folds`
    (N,) int64 are fixed folds; by default the groups are dealt into `NUM_FOLDS`. Labels of fewer
    than `MIN_GROUPS` groups are left out. If one of `num_tests` tests is chosen, the bound allows
    for it (Bonferroni).
    Returns None if no symbol occurs twice, if there are fewer than two folds, or if `can_test` is false.
    """
    repeated = np.bincount(present.symbols) > 1
    if not repeated.any():
        return None
    if not can_test(targets, groups, num_tests):
        return None
    kept = _in_enough_groups(targets, groups)
    present = _restrict(present, kept, len(targets), repeated)
    labels, targets = np.unique(targets[kept], return_inverse=True)
    groups = np.unique(groups[kept], return_inverse=True)[1]
    folds = _deal(groups) if folds is None else folds[kept]
    if len(np.unique(folds)) < 2:
        return None
    predictions = _predict(present, targets, folds, len(labels))
    num_groups = int(groups.max()) + 1
    confusions = np.zeros((num_groups, len(labels), len(labels)))
    np.add.at(confusions, (groups, targets, predictions), 1)
    uar, low = _bound(confusions, 1 - (1 - LEVEL) / num_tests)
    return Association(uar, 1 / len(labels), low, num_groups)


def can_test(targets: Array, groups: Array, num_tests: int = 1) -> bool:
    """Tell whether labels (N,) of groups (N,) can be tested: at least two labels, and enough groups.

    There are enough if it is improbable that in all groups the same symbols stand for the same labels
    by chance. A group with k of the C labels has C! / (C - k)! ways to give them different symbols.
    """
    kept = _in_enough_groups(targets, groups)
    labels = np.unique(targets[kept])
    if len(labels) < 2:
        return False
    pairs = np.unique(np.stack([groups[kept], targets[kept]]), axis=1)  # (2, P): the labels of each group
    num_labels_of_group = np.unique(pairs[0], return_counts=True)[1]
    log_ways = special.gammaln(len(labels) + 1) - special.gammaln(len(labels) - num_labels_of_group + 1)
    log_agreement = special.gammaln(len(labels) + 1) - log_ways.sum()
    return bool(log_agreement + np.log(num_tests) <= np.log(MAX_AGREEMENT))


def one_symbol(values: Sequence[Hashable]) -> Symbols:
    """Return the symbols of utterances with one each: their value (N)."""
    return Symbols(np.arange(len(values)), index_of(values))


def many_symbols(symbols: Sequence[Iterable[str]]) -> Symbols:
    """Return the symbols of N utterances with any number of them."""
    numbers: dict[str, int] = {}
    found: list[int] = []
    counts = []
    for several in symbols:
        different = dict.fromkeys(several)
        found += [numbers.setdefault(symbol, len(numbers)) for symbol in different]
        counts.append(len(different))
    return Symbols(np.repeat(np.arange(len(symbols)), counts), np.array(found, np.int64))


def quantile_bins(values: Array) -> list[int]:
    """Return the quantile bin of each number (N,); equal numbers share a bin."""
    edges = np.unique(np.quantile(values, np.arange(1, MAX_BINS) / MAX_BINS))
    found: list[int] = np.searchsorted(edges, values).tolist()
    return found


def _restrict(present: Symbols, kept: Array, size: int, repeated: Array) -> Symbols:
    """Return the pairs of the kept utterances, of N = `size`, and of the repeated symbols, (V,) bool, numbered anew."""
    places = np.full(size, -1)
    places[kept] = np.arange(len(kept))
    utterances = places[present.utterances]
    chosen = (utterances >= 0) & repeated[present.symbols]
    return Symbols(utterances[chosen], (np.cumsum(repeated) - 1)[present.symbols[chosen]])


def _in_enough_groups(targets: Array, groups: Array) -> Array:
    """Return the indices of the utterances whose label occurs in at least `MIN_GROUPS` groups."""
    kept = []
    for target in np.unique(targets[targets >= 0]):
        of_label = np.flatnonzero(targets == target)
        if len(np.unique(groups[of_label])) >= MIN_GROUPS:
            kept.append(of_label)
    return np.sort(np.concatenate(kept)) if kept else np.array([], np.int64)


def _deal(groups: Array) -> Array:
    """Deal the groups into folds, the largest first, so that the folds are of similar size."""
    sizes = np.bincount(groups)
    fold_of_group = np.empty(len(sizes), np.int64)
    fold_of_group[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes)) % NUM_FOLDS
    return fold_of_group[groups]


def _predict(present: Symbols, targets: Array, folds: Array, num_labels: int) -> Array:
    """Return the predicted label of each utterance, (N,) int64, from the other folds."""
    shape = num_labels, int(present.symbols.max(initial=-1)) + 1
    cells = targets[present.utterances] * shape[1] + present.symbols  # (P,): places in a matrix (C, V)
    fold_of_pair = folds[present.utterances]
    all_counts = np.bincount(cells, minlength=shape[0] * shape[1])
    predictions = np.zeros(len(targets), np.int64)
    for fold in np.unique(folds):
        test, tested = folds == fold, fold_of_pair == fold  # (N,), (P,)
        counts = (all_counts - np.bincount(cells[tested], minlength=len(all_counts))).reshape(shape)
        totals = np.bincount(targets[~test], minlength=num_labels)[:, None]
        log_rates = np.log((counts + SMOOTHING) / (totals + 2 * SMOOTHING))
        log_rates[:, counts.sum(axis=0) == 0] = 0.0  # a new symbol tells nothing
        of_pairs = log_rates[:, present.symbols[tested]]
        scores = [np.bincount(present.utterances[tested], each, len(targets)) for each in of_pairs]
        predictions[test] = np.array(scores)[:, test].argmax(axis=0)
    return predictions


def _bound(confusions: Array, level: float) -> tuple[float, float]:
    """Return the UAR of confusion matrices (G, C, C) and its lower bound at a level."""
    total = confusions.sum(axis=0)
    left = _uar(total - confusions)  # (G,)
    num = len(confusions)
    error = np.sqrt(2 * (num - 1) / num * ((left - left.mean()) ** 2).sum())
    uar = float(_uar(total))
    return uar, uar - float(stats.t.ppf(level, num - 1) * error)


def _uar(confusions: Array) -> Array:
    """Return the mean recall over labels of confusion matrices (..., C, C)."""
    support = confusions.sum(axis=-1)
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    return np.asarray((hits / support).mean(axis=-1))
