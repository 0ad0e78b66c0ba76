"""Columns of strings: what is added comes back, and strings with equal hashes are told apart."""

import pytest

from features.manifests import columns
from features.manifests.columns import HashIndex, RepeatedTexts, Texts

WORDS = ["", "hoà nhã", "a" * 300, "𐐀", "hòa nhã", "a"]


class Colliding(str):
    """String whose hash many others have."""

    def __hash__(self) -> int:
        return len(self) % 2


def test_texts_come_back() -> None:
    texts = Texts(WORDS)
    assert [texts[i] for i in range(len(texts))] == WORDS


def test_repeated_texts_share_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_KNOWN", 2)
    column, values = RepeatedTexts(), ["a", "b", None, "a", "c", "a", "b"]
    for value in values:
        column.append(value)
    column.complete()
    assert [column[i] for i in range(len(column))] == values
    assert list(column.codes) == [0, 1, -1, 0, 2, 3, 4]  # c made it forget a and b


@pytest.mark.parametrize("kind", [str, Colliding])
def test_an_index_finds_strings_and_no_others(kind: type[str]) -> None:
    words = [kind(word) for word in WORDS]
    index = HashIndex(words, words.__getitem__)
    assert index.find([kind("a"), kind("b"), *words[::-1]]).tolist() == [5, -1, 5, 4, 3, 2, 1, 0]
    assert index.repeated() == (list(range(6)) if kind is Colliding else [])
    assert HashIndex(["x", "y", "x"], WORDS.__getitem__).repeated() == [0, 2]
    assert HashIndex([], WORDS.__getitem__).find(["a"]).tolist() == [-1]
