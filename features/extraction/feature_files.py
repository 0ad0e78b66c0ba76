"""Features of the user: a folder of .npy files, or one HDF5 file or Zarr group with offsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError, UsageError

Array = np.ndarray[Any, Any]
NAMES = ("values", "offsets", "utterance_id")
"""Arrays of an HDF5 file or a Zarr group, as in the parts of a store; vectors need no offsets."""
HDF5_SUFFIXES = (".h5", ".hdf5")


class NumpyFolder(Mapping[str, Array]):
    """The .npy files below a folder: `x/y.npy` holds the features of the utterance `x/y`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.npy")):
            self._paths[path.relative_to(folder).with_suffix("").as_posix()] = path

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __getitem__(self, utterance_id: str) -> Array:
        """Return the array of an utterance; InputError if its file cannot be read."""
        path = self._paths[utterance_id]
        try:
            values: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{path} must be an array of numbers in .npy format, but cannot be read: {error}"
            ) from error
        return values


class PackedArrays(Mapping[str, Array]):
    """One array of all frames: utterance i has `values[offsets[i] : offsets[i + 1]]`.

    `arrays` is an open HDF5 file or Zarr group with `values` (sum T, D), `offsets` (N + 1,) and
    `utterance_id` (N,). Without `offsets`, `values` (N, D) holds one vector per utterance.
    """

    def __init__(self, path: Path, arrays: Any) -> None:
        self.path, self._frames = path, arrays["values"]
        self._vectors = "offsets" not in arrays
        ids = [name.decode() if isinstance(name, bytes) else str(name) for name in arrays["utterance_id"][:]]
        if self._vectors and self._frames.shape[0] != len(ids):
            found = f"{self._frames.shape[0]} for {len(ids)} utterances"
            raise InputError(f"{path}: without offsets, values must hold one vector per utterance, found {found}")
        offsets = np.arange(len(ids) + 1) if self._vectors else np.asarray(arrays["offsets"][:])
        if offsets.shape != (len(ids) + 1,) or offsets.dtype.kind not in "iu":
            raise InputError(f"{path}: offsets must be {len(ids) + 1} integers, found {offsets.dtype} {offsets.shape}")
        rising = offsets[0] == 0 and bool((np.diff(offsets.astype(np.int64)) >= 0).all())
        if not rising or int(offsets[-1]) != self._frames.shape[0]:
            raise InputError(f"{path}: offsets must rise from 0 to {self._frames.shape[0]}, the number of frames")
        self._bounds = dict(zip(ids, zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True), strict=True))
        if len(self._bounds) < len(ids):
            raise InputError(f"{path}: utterance_id must hold each id once, found {len(ids)} with duplicates")

    def __len__(self) -> int:
        return len(self._bounds)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bounds)

    def __getitem__(self, utterance_id: str) -> Array:
        """Return the features of an utterance, (T, D), or (D,) without offsets."""
        first, last = self._bounds[utterance_id]
        try:
            return np.asarray(self._frames[first] if self._vectors else self._frames[first:last])
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: values of {utterance_id!r} cannot be read: {error}") from error


def open_features(path: Path) -> Mapping[str, Array]:
    """Open the features at a path: arrays (T, D) or (D,) by utterance id.

    Raises UsageError if it does not exist or holds no features, InputError if it is damaged.
    """
    if not path.exists():
        raise UsageError(f"{path} must be a folder of .npy files, an HDF5 file or a Zarr group, but does not exist")
    if path.is_dir() and not (path / "zarr.json").exists():
        folder = NumpyFolder(path)
        if not folder:
            raise UsageError(f"{path} must hold a file UTTERANCE_ID.npy for each utterance, found no .npy file")
        return folder
    try:
        return PackedArrays(path, _open_group(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} must hold the arrays {', '.join(NAMES)}, but cannot be read: {type(error).__name__}: {error}"
        ) from error


def _open_group(path: Path) -> Any:
    if path.is_dir():
        import zarr

        return zarr.open_group(path, mode="r")
    if path.suffix not in HDF5_SUFFIXES:
        raise UsageError(f"{path} must be a folder, or a file {' or '.join(HDF5_SUFFIXES)}")
    import h5py

    return h5py.File(path, "r")
