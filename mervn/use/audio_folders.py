"""Audio files of a folder and of the folders below it, linked folders included."""

from __future__ import annotations

import os
from pathlib import Path

from features.errors import InputError

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
    ".sph",
)  # fmt: skip
"""Suffixes of the files that are read from a folder; a file that is named itself may have any."""


def find_audio_files(folder: Path) -> list[Path]:
    """Return the audio files in a folder and below it, sorted by path, without hidden files.

    Links to folders are followed. Each folder is read once: under its own path rather than that of a
    link, if it has one. InputError for a folder that cannot be read, and if no file is found.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    tops = [folder]
    try:
        while tops:
            linked: list[Path] = []
            for top in tops:
                linked += _walk(top, found, seen)
            tops = sorted(linked)
    except OSError as error:
        raise InputError(
            f"{error.filename} must be readable, as all below {folder}, found: {error.strerror}"
        ) from error
    if not found:
        raise InputError(f"{folder} must hold audio files ({', '.join(AUDIO_SUFFIXES)}), found none")
    return sorted(found)


def _walk(top: Path, found: list[Path], seen: set[tuple[int, int]]) -> list[Path]:
    """Add the audio files below a folder to `found`, and return the links to folders, not followed.

    Folders whose device and inode are in `seen` are left out, others added. Raises OSError for a
    folder that cannot be read.
    """
    linked: list[Path] = []
    for place, folders, names in os.walk(top, onerror=_raise):
        here = Path(place)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()  # os.walk does not go below then
            continue
        seen.add((status.st_dev, status.st_ino))
        linked += [here / name for name in folders if (here / name).is_symlink()]
        visible = [here / name for name in names if not name.startswith(".")]
        found += [file for file in visible if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file()]
    return linked


def _raise(error: OSError) -> None:
    raise error
