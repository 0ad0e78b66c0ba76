"""LabelView: renames, merges and restricts the labels of a model in its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from features.errors import UsageError
from features.suggestions import did_you_mean

Array = np.ndarray[Any, Any]


class LabelView:
    """Labels of the results of a prediction, and their probabilities.

    Probabilities of labels with one new name are added. If only some labels are kept, theirs are
    divided by their sum.
    """

    def __init__(self, labels: Sequence[str], renamed: Sequence[str] = (), kept: Sequence[str] = ()) -> None:
        """Check `OLD=NEW` entries and the labels to keep; UsageError for one that does not exist."""
        new_names = dict(entry.split("=", 1) for entry in renamed)
        _require("--map", list(new_names), labels)
        names = [new_names.get(label, label) for label in labels]
        every = list(dict.fromkeys(names))
        _require("--labels", kept, every)
        self.labels = tuple(name for name in every if not kept or name in kept)
        """The K labels of the results, in the order of the model."""
        self._sums = np.zeros((len(labels), len(self.labels)))
        for i, name in enumerate(names):
            if name in self.labels:
                self._sums[i, self.labels.index(name)] = 1.0
        self._is_restricted = len(self.labels) < len(every)
        self._is_changed = bool(new_names) or self._is_restricted

    def apply(self, probabilities: Array) -> Array:
        """Return the probabilities (K,) of the results from those (C,) of the model."""
        if not self._is_changed:
            return probabilities
        merged: Array = probabilities @ self._sums
        return merged / merged.sum() if self._is_restricted else merged


def _require(flag: str, wanted: Sequence[str], labels: Sequence[str]) -> None:
    """Raise UsageError for a name that is no label."""
    for name in wanted:
        if name not in labels:
            near = did_you_mean(name, labels)
            raise UsageError(f"{flag} must name labels of the model ({', '.join(labels)}), found {name!r}{near}")
