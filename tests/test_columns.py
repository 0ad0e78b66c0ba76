"""Columns of repeated strings: what is added comes back."""

import pytest

from features.manifests import columns
from features.manifests.columns import RepeatedTexts


def test_repeated_texts_share_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_KNOWN", 2)
    column, values = RepeatedTexts(), ["a", "b", None, "a", "c", "a", "b"]
    for value in values:
        column.append(value)
    column.complete()
    assert [column[i] for i in range(len(column))] == values
    assert list(column.codes) == [0, 1, -1, 0, 2, 3, 4]  # c made it forget a and b
    replaced = column.replaced(["A", "", "c", "A", "x"])
    assert [replaced[i] for i in range(len(column))] == ["A", "", None, "A", "c", "A", "x"]
