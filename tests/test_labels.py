"""Task labels are those of a loop over utterances, for utterances in columns and as objects."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.errors import InputError
from features.manifests.manifest import Utterance
from features.manifests.manifest_columns import ManifestColumns
from features.manifests.utterances import Utterances
from mervn.config import LabelOptions
from mervn.data.labels import apply_labels, emotions_of

EMOTIONS = ["vui", "buồn", "ồn", "vui", "giận", "ồn", "buồn"]


def manifest(split: str, emotions: list[str]) -> Utterances:
    columns = ManifestColumns(split, f"{split}.jsonl", Path("/root"))
    for number, emotion in enumerate(emotions, 1):
        values: dict[str, Any] = {"utterance_id": f"{split}-{number}", "emotion": emotion, "wav_path": "a.wav"}
        values |= {"speaker_id": "s", "start": 0.0, "end": None, "channel": "mix", "transcript": "xin"}
        columns.append(values, number, {})
    return Utterances([columns])


def expected(utterances: list[Utterance], options: LabelOptions) -> tuple[list[Utterance], dict[str, int]]:
    names = dict(entry.split("=") for entry in options.label_map)
    renamed = [replace(each, emotion=names.get(str(each.emotion), each.emotion)) for each in utterances]
    kept = [each for each in renamed if each.emotion not in options.drop_label]
    return kept, dict(Counter(str(each.emotion) for each in renamed if each.emotion in options.drop_label))


OPTIONS = [{}, {"label_map": ("vui=buồn",)}, {"label_map": ("vui=nhiễu", "ồn=nhiễu"), "drop_label": ("nhiễu", "giận")}]


@pytest.mark.parametrize("changes", OPTIONS)
@pytest.mark.parametrize("kind", [list, lambda utterances: utterances], ids=["objects", "columns"])
def test_labels_are_those_of_a_loop(kind: Any, changes: dict[str, Any]) -> None:
    options = LabelOptions(**changes)
    train = Utterances.join([manifest("train", EMOTIONS), manifest("valid", EMOTIONS[:1:-1])])
    given = {"valid": kind(train[2:9:2]), "train": kind(train)}
    found = apply_labels(given, options)
    for split, utterances in given.items():
        kept, dropped = expected(list(utterances), options)
        assert list(found.utterances[split]) == kept and found.dropped[split] == dropped
        assert emotions_of(found.utterances[split]) == {each.emotion for each in kept}
    assert kept != list(train) or not changes  # the options have an effect
    assert kind is list or all(isinstance(each, Utterances) for each in found.utterances.values())


def test_every_utterance_without_a_listed_label_is_counted() -> None:
    train = manifest("train", EMOTIONS)
    message = r"--labels buồn,giận, but 4 are not: train.jsonl:1 'vui', train.jsonl:3 'ồn', train.jsonl:4 'vui'"
    for utterances in (train, list(train)):
        with pytest.raises(InputError, match=message):
            apply_labels({"train": utterances}, LabelOptions(labels=("buồn", "giận")))


def test_chained_splits_stay_in_order() -> None:
    train = Utterances.join([manifest("train", EMOTIONS), manifest("valid", EMOTIONS)])
    kept = apply_labels({"train": train[::-1]}, LabelOptions(drop_label=("ồn",))).utterances["train"]
    names = [f"{split}-{i}" for split in ("valid", "train") for i in (7, 5, 4, 2, 1)]
    assert [each.utterance_id for each in kept] == names
