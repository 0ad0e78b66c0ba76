"""tuned.json: the record of a fine-tuned encoder, and messages about invalid records."""

import json
from pathlib import Path

import pytest
from tiny import make_data

from features.config import SPLITS
from features.encoders.finetuned import FineTuning, read_fine_tuning
from features.encoders.selector import EncoderSettings
from features.errors import InputError
from features.manifests.manifest import read_manifests


def write(folder: Path) -> FineTuning:
    tuned = FineTuning(
        folder, "run", "whisper", (2, "last"), EncoderSettings(whisper_mode="trimmed"), "audio", {"a": "0f"}
    )
    tuned.save(folder)
    return tuned


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    assert read_fine_tuning(tmp_path) is None
    tuned = write(tmp_path)
    assert read_fine_tuning(tmp_path) == tuned
    before = (tmp_path / "tuned.json").stat()
    write(tmp_path)  # the same again: a store may be read-only
    assert (tmp_path / "tuned.json").stat() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", []), ("layers", [None]), ("layers", "last"), ("layers", ["7"]), ("layers", [-1]), ("layers", [True]),
        ("encoder", []), ("seen", None), ("seen", []), ("seen", {"a": 5}), ("run", 5), ("modality", 1),
        ("modality", "video"), ("final", "yes"), ("settings", {"segmenter": 5}), ("settings", []),
        ("settings", {"whisper_mode": "trim"}), ("settings", {"tone": "old"}), ("schema", 2),
    ],
)  # fmt: skip
def test_an_edited_file_has_one_message_that_names_the_field(tmp_path: Path, field: str, value: object) -> None:
    write(tmp_path)
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(InputError, match=rf"tuned\.json must say what an encoder was fine-tuned on, .*{field} must be"):
        read_fine_tuning(tmp_path)


def test_the_message_about_leaked_utterances_names_every_split(tmp_path: Path) -> None:
    """It said that all of them were of the first one's split."""
    make_data(tmp_path, {"train": 1, "valid": 2, "test": 1})
    utterances = list(read_manifests(tmp_path, SPLITS, require_emotion=False).all_utterances())
    tuned = FineTuning(tmp_path, "run", "whisper", ("last",), EncoderSettings(), "audio", {"a": "0f"})
    with pytest.raises(InputError, match=r"was fine-tuned on 3 utterances of valid and test: valid\.jsonl:1 "):
        tuned.refuse_training_utterances((utterance, "0f") for utterance in utterances)
    tuned.refuse_training_utterances((utterance, "0e") for utterance in utterances)


@pytest.mark.parametrize("content", ["[", "[]", "{}", "[" * 100_000, "null"], ids=lambda content: content[:5])
def test_a_damaged_file_has_one_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "tuned.json").write_text(content)
    with pytest.raises(InputError, match=r"tuned\.json must say what an encoder was fine-tuned on"):
        read_fine_tuning(tmp_path)
