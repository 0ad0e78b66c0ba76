"""Texts give the strings that they were made of."""

import pytest

from features.store.texts import Texts


@pytest.mark.parametrize("strings", [[], [""], ["a", "", "ừ\u2028", "a\0b", "😀" * 300]])
def test_texts_are_the_strings_they_were_made_of(strings: list[str]) -> None:
    texts = Texts(strings)
    assert texts == strings and list(texts) == strings and len(texts) == len(strings)
    assert [texts[i] for i in range(len(strings))] == strings
    assert [texts.utf8(i).decode() for i in range(len(strings))] == strings
    assert texts != [*strings, "b"] and texts != "other"
    with pytest.raises(IndexError):
        texts[len(strings)]
