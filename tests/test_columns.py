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


@pytest.mark.parametrize("max_known", [2, 100])
def test_columns_are_joined_in_their_order(max_known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_KNOWN", max_known)
    parts = [["a", None, "b"], [], [None], ["c", "a", "a", "d"], ["b"]]
    joined, alone = RepeatedTexts(), RepeatedTexts()
    for part in parts:
        added = RepeatedTexts()
        for value in part:
            added.append(value)
            alone.append(value)
        joined.extend(added)
    assert [joined[i] for i in range(len(joined))] == [value for part in parts for value in part]
    if max_known == 100:
        assert joined.codes == alone.codes and joined.values == alone.values
