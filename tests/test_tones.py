"""Exchange of tone marks: an independent reference is the table of all Vietnamese vowels with their tones."""

import unicodedata
from typing import Any

import numpy as np
import pytest

from features.text.tones import exchange_tones

VOWELS = (
    "àáảãạ", "ằắẳẵặ", "ầấẩẫậ", "èéẻẽẹ", "ềếểễệ", "ìíỉĩị", "òóỏõọ", "ồốổỗộ", "ờớởỡợ", "ùúủũụ", "ừứửữự", "ỳýỷỹỵ",
)  # fmt: skip
"""Each vowel with grave, acute, hook above, tilde and dot below, as single code points."""


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Chosen:
    """Generator whose draws are all the same."""

    def __init__(self, number: int) -> None:
        self.number = number

    def integers(self, high: int) -> int:
        """Return the number, if it is below the limit."""
        return min(self.number, high - 1)


@pytest.mark.parametrize("vowels", VOWELS)
def test_every_vowel_gets_each_of_its_other_tones_as_one_code_point(vowels: str) -> None:
    for letters in (vowels, vowels.upper()):
        for number, letter in enumerate(letters):
            others = letters[:number] + letters[number + 1 :]
            generators: list[Any] = [Chosen(draw) for draw in range(4)]
            assert [exchange_tones(f"m{letter}n", each) for each in generators] == [f"m{other}n" for other in others]


def test_only_marked_syllables_change_and_in_nothing_but_the_tone() -> None:
    text = "Hôm nay, trời ĐẸP quá: 3 người_ta không nghĩ thế! (ok)"
    found = exchange_tones(text, random())
    assert found == unicodedata.normalize("NFC", found) and found != text

    def without_tones(value: str) -> str:
        return "".join(
            mark for mark in unicodedata.normalize("NFD", value) if mark not in "\u0300\u0301\u0309\u0303\u0323"
        )

    assert without_tones(found) == without_tones(text)
    same = [one == other for one, other in zip(text.split(), found.split(), strict=True)]
    assert same == [True, True, False, False, False, True, False, True, False, False, True]


@pytest.mark.parametrize(("text", "other"), [("tốt", "tột"), ("sạch", "sách"), ("MẠC", "MÁC"), ("đẹp", "đép")])
def test_a_syllable_with_a_stop_has_only_two_tones(text: str, other: str) -> None:
    assert {exchange_tones(text, random(seed)) for seed in range(20)} == {other}
    assert exchange_tones(other, random()) == text
    assert len({exchange_tones(text + "n", random(seed)) for seed in range(40)}) == 4  # negative control


def test_decomposed_text_gives_the_same_and_two_tones_stay() -> None:
    for text in ("buồn ngủ", "đường về", "sữa"):
        decomposed = unicodedata.normalize("NFD", text)
        assert decomposed != text and exchange_tones(decomposed, random(1)) == exchange_tones(text, random(1))
    assert exchange_tones("hòá", random()) == "hòá"
    assert exchange_tones("", random()) == ""
