"""Feature files: .npy files by utterance id, or packed arrays in HDF5 or Zarr; damaged ones are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from features.errors import InputError, UsageError
from features.extraction.feature_files import NumpyFolder, open_features

Array = np.ndarray[Any, Any]
FEATURES = {f"a/ú{i}": np.random.default_rng(i).standard_normal((i, 3)).astype(np.float16) for i in range(4)}


def save_npy(folder: Path, features: Mapping[str, Array]) -> Path:
    for name, values in features.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values)
    return folder


def packed(features: Mapping[str, Array]) -> dict[str, Any]:
    offsets = np.cumsum([0, *(len(values) for values in features.values())])
    return {"values": np.concatenate(list(features.values())), "offsets": offsets, "utterance_id": list(features)}


def save_hdf5(path: Path, arrays: Mapping[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def save_zarr(path: Path, arrays: Mapping[str, Any]) -> Path:
    import zarr

    group = zarr.open_group(path, mode="w")
    for name, values in arrays.items():
        data = np.array(values, dtype=object) if name == "utterance_id" else values
        kind: Any = "string" if name == "utterance_id" else data.dtype
        group.create_array(name, shape=data.shape, dtype=kind)[:] = data
    return path


def test_all_forms_hold_the_same_features(tmp_path: Path) -> None:
    forms = (
        save_npy(tmp_path / "npy", FEATURES),
        save_hdf5(tmp_path / "all.h5", packed(FEATURES)),
        save_zarr(tmp_path / "all.zarr", packed(FEATURES)),
    )
    for path in forms:
        found = open_features(path)
        assert sorted(found) == sorted(FEATURES) and len(found) == 4
        for name, values in FEATURES.items():
            assert found[name].dtype == values.dtype and np.array_equal(found[name], values)


def test_packed_vectors_need_no_offsets(tmp_path: Path) -> None:
    vectors = {name: np.full(3, i, np.float32) for i, name in enumerate(FEATURES)}
    arrays = {"values": np.stack(list(vectors.values())), "utterance_id": list(vectors)}
    for path in (save_hdf5(tmp_path / "all.h5", arrays), save_zarr(tmp_path / "all.zarr", arrays)):
        found = open_features(path)
        assert all(
            found[name].shape == (3,) and np.array_equal(found[name], values) for name, values in vectors.items()
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": [0, 0, 1, 3]}, r"offsets must be 5 integers, found int64 \(4,\)"),
        ({"offsets": [0.0, 0.0, 1.0, 3.0, 6.0]}, "offsets must be 5 integers, found float64"),
        ({"offsets": [0, 2, 1, 3, 6]}, "offsets must rise from 0 to 6"),
        ({"offsets": [0, 0, 1, 3, 5]}, "offsets must rise from 0 to 6"),
        ({"utterance_id": ["a", "b", "c", "a"]}, "must hold each id once, found 4 with duplicates"),
        ({"offsets": None}, "without offsets, values must hold one vector per utterance, found 6 for 4 utterances"),
        ({"values": None}, "must hold the arrays values, offsets, utterance_id, but cannot be read"),
    ],
)
def test_damaged_packed_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {name: values for name, values in {**packed(FEATURES), **changes}.items() if values is not None}
    with pytest.raises(InputError, match=message):
        open_features(save_hdf5(tmp_path / "all.h5", arrays))


def test_paths_without_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere must be a folder of .npy files.*does not exist"):
        open_features(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"found no \.npy file"):
        open_features(tmp_path)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(UsageError, match=r"must be a folder, or a file \.h5 or \.hdf5"):
        open_features(tmp_path / "a.csv")
    (tmp_path / "a.h5").write_text("no HDF5")
    with pytest.raises(InputError, match=r"a\.h5 must hold the arrays"):
        open_features(tmp_path / "a.h5")
    for content in (b"", b"x" * 200):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy must be an array of numbers in \.npy format"):
            NumpyFolder(tmp_path)["a"]
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy must be an array of numbers"):
        NumpyFolder(tmp_path)["a"]  # pickled objects are never loaded
