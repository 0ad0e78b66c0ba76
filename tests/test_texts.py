"""Texts give the strings that they were made of."""

import pytest

from features import texts as module
from features.texts import Texts


@pytest.mark.parametrize("strings", [[], [""], ["a", "", "ừ\u2028", "a\0b", "😀" * 300], ["b" * 70_000, "c"]])
def test_texts_are_the_strings_they_were_made_of(strings: list[str]) -> None:
    added = Texts()
    for string in strings:
        added.append(string)
    for texts in (Texts(strings), Texts.of_utf8([string.encode() for string in strings]), added):
        assert texts == strings and list(texts) == strings and len(texts) == len(strings)
        assert [texts[i] for i in range(len(strings))] == strings
        assert [texts.utf8(i).decode() for i in range(len(strings))] == strings
        assert texts != [*strings, "b"] and texts != "other"
        with pytest.raises(IndexError):
            texts[len(strings)]


def test_a_character_is_not_divided_between_strings() -> None:
    first, second = "ừ".encode()[:1], "ừ".encode()[1:]
    with pytest.raises(UnicodeDecodeError):
        Texts.of_utf8([first, second])


def test_offsets_become_wider_when_they_must() -> None:
    texts = Texts(["a" * 0xFFFF])
    assert texts._ends.typecode == "H"
    texts.append("b")
    assert texts._ends.typecode == module.WIDER["H"] and texts == ["a" * 0xFFFF, "b"]


@pytest.mark.parametrize("size", [1, 300, 0x8000, 0xFFFF])
def test_texts_are_joined_also_if_offsets_become_wider(size: int) -> None:
    parts = [["ừ" * (size // 3), "", "a"], [], ["b" * size], ["", "\u2028"]]
    texts = Texts()
    for part in parts:
        added = Texts()
        for string in part:
            added.append(string)
        texts.extend(added)
    texts.extend(Texts(["c", ""]))
    texts.append("d")
    expected = [*(string for part in parts for string in part), "c", "", "d"]
    assert texts == expected
    assert texts._ends.typecode == ("H" if len("".join(expected).encode()) < 1 << 16 else "I")
