"""HashIndex finds what a dictionary finds, and tells strings with equal hashes apart."""

import random

import numpy as np
import pytest

from features import hash_index
from features.hash_index import PER_RANGE, HashIndex, hashes_of

WORDS = ["", "hoà nhã", "a" * 300, "𐐀", "hòa nhã", "a"]


@pytest.fixture(params=["hash", "two hashes"])
def colliding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Tell whether many strings have one hash, in two ranges of hashes."""
    if request.param == "two hashes":
        monkeypatch.setattr(hash_index, "hash", lambda utf8: (len(utf8) % 2 - 1) << 40, raising=False)
    return request.param == "two hashes"


def test_an_index_finds_strings_and_no_others(colliding: bool) -> None:
    index = HashIndex.of(WORDS, WORDS.__getitem__)
    wanted = ["a", "b", *WORDS[::-1]]
    assert index.find(wanted).tolist() == [5, -1, 5, 4, 3, 2, 1, 0] == [index.find_one(word) for word in wanted]
    assert sorted(index.numbers[index.repeated()].tolist()) == (list(range(6)) if colliding else [])
    empty = HashIndex.of([], WORDS.__getitem__)
    assert empty.find(["a"]).tolist() == [-1] == [empty.find_one("a")] and not empty.repeated().any()


def test_of_equal_strings_the_first_is_found() -> None:
    words = ["x", "y", "x"]
    index = HashIndex.of(words, words.__getitem__)
    assert index.find(words).tolist() == [0, 1, 0] and index.find_one("x") == 0
    assert sorted(index.numbers[index.repeated()].tolist()) == [0, 2]


@pytest.mark.usefixtures("colliding")
def test_an_index_that_grows_finds_what_a_dictionary_finds() -> None:
    words = ["ừ" * (i % 7) + str(i) for i in range(20 * PER_RANGE)]
    numbers = random.Random(0).sample(range(0, 7 * len(words), 7), len(words))
    by_number = dict(zip(numbers, words, strict=True))
    index = HashIndex.of([], by_number.__getitem__)
    for first in range(0, len(words), 50):
        added = slice(first, first + 50)
        index = index.with_others(hashes_of(words[added]), np.array(numbers[added]))
        assert index.find(words).tolist() == [*numbers[: first + 50], *[-1] * (len(words) - len(index))]
        assert [index.find_one(word) for word in words] == index.find(words).tolist()
    chosen = index.select(index.numbers % 2 == 0)
    assert chosen.find(words).tolist() == [-1 if number % 2 else number for number in numbers]
