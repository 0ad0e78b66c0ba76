"""PlaceTable finds what a dictionary would find, whatever the order of parts and hashes, and takes little memory."""

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import hash_index
from features.hash_index import hashes_of
from features.store import place_table
from features.store.part import Part
from features.store.place_table import PlaceTable
from features.texts import Texts

NOT_MAPPED: Any = None


def part(name: str, ids: list[str], generation: int = 0) -> Part:
    return Part(Path(name), generation, Texts(ids), hashes_of(ids), np.arange(len(ids) + 1), NOT_MAPPED)


def expected(parts: list[Part]) -> dict[str, tuple[int, str, int]]:
    """Return, by id, the highest generation, name and index that hold it."""
    found: dict[str, tuple[int, str, int]] = {}
    for each in parts:
        for index, utterance_id in enumerate(each.utterance_ids):
            key = (each.generation, each.path.name, index)
            found[utterance_id] = max(found.get(utterance_id, key), key)
    return found


def content(table: PlaceTable) -> dict[str, tuple[int, str, int]]:
    found = {}
    for utterance_id in table:
        place = table.find(utterance_id)
        assert place is not None and table.id_of(place) == utterance_id
        each = table.part_of(place)
        assert each is not None
        found[utterance_id] = (each.generation, each.path.name, place & place_table.INDEX)
    assert len(found) == len(table) == len(table.places())
    return found


@pytest.mark.parametrize("recent", [0, 5, 4096])
@pytest.mark.parametrize(
    "hashing", [hash, lambda text: (len(text) - 7) << 59, lambda _: -1], ids=["hash", "few hashes", "one hash"]
)
def test_a_table_finds_what_a_dictionary_finds(monkeypatch: pytest.MonkeyPatch, recent: int, hashing: Any) -> None:
    monkeypatch.setattr(place_table, "RECENT", recent)
    monkeypatch.setattr(hash_index, "hash", hashing, raising=False)
    rng = random.Random(recent)
    table, parts = PlaceTable(), list[Part]()
    for step in range(12):
        added = []
        for number in range(rng.randrange(3)):
            ids = ["ừ" * (i % 4) + str(i) for i in rng.choices(range(30), k=rng.randrange(6))]
            added.append(part(f"part-{rng.random()}-{step}-{number}", ids, rng.randrange(2)))
        table.add(added)
        parts += added
        if step % 4 == 3 and parts:
            gone = rng.sample(parts, len(parts) // 2)
            table.remove([each.path.name for each in gone])
            parts = [each for each in parts if each not in gone]
        assert content(table) == expected(parts)
        ids = [*expected(parts), "unknown"]
        assert table.find_all(ids).tolist() == [-1 if place is None else place for place in map(table.find, ids)]
        assert table.find("unknown") is None and table.find("") is None


def test_a_place_tells_the_id_after_its_part_was_removed() -> None:
    table = PlaceTable()
    table.add([part("one", ["a", "b"])])
    place = table.find("b")
    assert place is not None
    table.remove(["one"])
    assert table.id_of(place) == "b" and table.part_of(place) is None and table.find("b") is None and len(table) == 0
    table.add([part("two", ["b"])])
    assert table.find("b") not in (None, place)


def test_an_utterance_takes_fifty_bytes() -> None:
    """It took a dictionary entry, a string and a tuple: more than 200 bytes."""
    count = 20_000
    tracemalloc.start()
    table = PlaceTable()
    table.add([part(f"p{i}", [f"utterance-{i + j:06d}" for j in range(256)]) for i in range(0, count, 256)])
    used = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    assert 20 < used < 60, used  # 20 for the id and its end, 8 for the offset that a part has
