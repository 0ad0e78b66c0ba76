"""LabelView: merged labels add up, restricted ones are divided by their sum."""

import numpy as np
import pytest

from features.errors import UsageError
from mervn.use.label_view import LabelView

LABELS = ("angry", "happy", "neutral", "sad")
SCORES = np.array([0.1, 0.2, 0.3, 0.4])


def test_labels_are_merged_then_restricted() -> None:
    assert LabelView(LABELS).apply(SCORES) is SCORES
    merged = LabelView(LABELS, ("angry=negative", "sad=negative"))
    assert merged.labels == ("negative", "happy", "neutral")
    assert merged.apply(SCORES) == pytest.approx([0.5, 0.2, 0.3])
    kept = LabelView(LABELS, ("angry=negative", "sad=negative"), ("happy", "negative"))
    assert kept.labels == ("negative", "happy")
    assert kept.apply(SCORES) == pytest.approx([0.5 / 0.7, 0.2 / 0.7])


def test_names_that_are_no_labels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--map must name labels of the model .*found 'joy'"):
        LabelView(LABELS, ("joy=happy",))
    with pytest.raises(UsageError, match=r"--labels must name labels of the model .*found 'sad'"):
        LabelView(LABELS, ("sad=negative",), ("sad",))
