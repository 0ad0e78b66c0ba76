"""SavedBlocks: whole blocks are used again, everything else is computed again, and no other file is lost."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from features.audio.segment import AudioError
from features.errors import InputError, UsageError
from mervn.use.clips import Clip
from mervn.use.saved_blocks import ClipResult, ContentKeys, SavedBlocks

MODEL = {"model": "a", "labels": ["x", "y"]}
RESULTS = [ClipResult(np.array([0.1, 0.9])), ClipResult(np.array([1 / 3, 2 / 3]), None, "xin chào")]


def saved(path: Path, **changes: str) -> SavedBlocks:
    return SavedBlocks(path, {**MODEL, **changes})


def test_whole_blocks_are_exact_and_faults_are_computed_again(tmp_path: Path) -> None:
    blocks = saved(tmp_path / "s")
    blocks.add("k", RESULTS)
    blocks.add("f", [RESULTS[0], ClipResult(None, AudioError("unreadable", "no audio"))])
    blocks.close()
    blocks = saved(tmp_path / "s")
    found = blocks.find("k", 2)
    assert found is not None and [one.text for one in found] == [None, "xin chào"]
    for one, expected in zip(found, RESULTS, strict=True):
        assert np.array_equal(one.probabilities, expected.probabilities)  # type: ignore[arg-type]
    assert blocks.find("f", 2) is None and blocks.find("k", 3) is None and blocks.find("other", 2) is None
    blocks.add("f", RESULTS)
    blocks.close()
    with closing(saved(tmp_path / "s")) as blocks:
        assert blocks.find("f", 2) is not None


def test_every_cut_leaves_whole_blocks_only(tmp_path: Path) -> None:
    path = tmp_path / "s"
    blocks = saved(path)
    blocks.add("a", RESULTS)
    kept = path.stat().st_size
    blocks.add("b", RESULTS)
    blocks.close()
    content = path.read_bytes()
    for size in [*range(0, len(content), 9), kept - 1, kept, kept + 1]:
        path.write_bytes(content[:size])
        blocks = saved(path)
        assert (blocks.find("a", 2) is not None) == (size >= kept)
        assert blocks.find("b", 2) is None
        blocks.add("b", RESULTS)
        blocks.close()
        assert path.read_bytes().endswith(b"\n")
        with closing(saved(path)) as blocks:
            assert blocks.find("b", 2) is not None


def test_another_model_another_file_and_a_second_process_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    blocks = saved(path)
    with pytest.raises(InputError, match="is being written by another process"):
        saved(path)
    blocks.close()
    with pytest.raises(UsageError, match=r"another model or other options.*\n  model: 'a' there, 'b' now"):
        saved(path, model="b")
    path.write_text("my notes\n")
    with pytest.raises(UsageError, match="must hold results of mervn predict"):
        saved(path)
    assert path.read_text() == "my notes\n"


def test_force_discards_every_block(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(saved(path)) as blocks:
        blocks.add("k", RESULTS)
    with closing(SavedBlocks(path, MODEL, force=True)) as blocks:
        assert blocks.find("k", 2) is None
        blocks.add("n", RESULTS)
    with closing(saved(path)) as blocks:
        assert blocks.find("k", 2) is None and blocks.find("n", 2) is not None


def test_a_key_changes_with_content_segment_and_text(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"1234")
    clips = [Clip(path), Clip(path, start=1.0), Clip(path, end=1.0), Clip(path, text="a"), Clip(path, channel=0)]
    keys = {ContentKeys().key([clip]) for clip in clips}
    assert len(keys) == len(clips) and ContentKeys().key([Clip(path)]) in keys
    path.write_bytes(b"1235")
    assert ContentKeys().key([Clip(path)]) not in keys
