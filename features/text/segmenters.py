"""Word segmenters: they join the syllables of a Vietnamese word by `_`, as PhoBERT reads it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import files, version
from pathlib import Path
from typing import Any

from features.errors import InputError, UsageError

SEGMENTERS = ("pyvi", "underthesea", "vncorenlp", "none")
Segment = Callable[[str], str]
VNCORENLP_VARIABLE = "MERVN_VNCORENLP"
"""Environment variable with the folder of VnCoreNLP: it belongs to a machine, not to the settings
of a run."""
VNCORENLP_JAR = "VnCoreNLP-1.2.jar"
VNCORENLP_FILES = (VNCORENLP_JAR, "models/wordsegmenter/vi-vocab", "models/wordsegmenter/wordsegmenter.rdr")
"""Files that the folder must contain."""
COMPILED = (".pyc", ".so", ".pyd", ".dylib", ".dll")
"""Suffixes of compiled files."""


def load_segmenter(name: str) -> tuple[Segment, str]:
    """Load a word segmenter (text -> text with `_` between the syllables of a word).

    Return it, and its name with its version. UsageError for an unknown name. InputError if its
    package, or anything else that it needs, is missing.
    """
    if name not in SEGMENTERS:
        raise UsageError(f"the word segmenter must be one of {', '.join(SEGMENTERS)}, found {name!r}")
    if name == "none":
        return str, "none"
    try:
        if name == "vncorenlp":
            return _load_vncorenlp()
        if name == "underthesea":
            from underthesea import word_tokenize

            return lambda text: str(word_tokenize(text, format="text")), f"underthesea {version('underthesea')}"
        from pyvi import ViTokenizer

        return lambda text: str(ViTokenizer.tokenize(text)), f"pyvi {version('pyvi')}"
    except ImportError as error:
        extra = "vncorenlp" if name == "vncorenlp" else "segment"
        others = [other for other in SEGMENTERS if other not in (name, "vncorenlp")]
        raise InputError(
            f"the word segmenter {name} is not installed ({error}): "
            f"pip install 'mervn[{extra}]', or use --segmenter {' or '.join(others)}"
        ) from error


def _load_vncorenlp() -> tuple[Segment, str]:
    """Load VnCoreNLP's segmenter.

    Its version includes the hash of the jar and the models, which the user provides.
    """
    import py_vncorenlp  # first: without the package, the other errors would be misleading

    path = os.environ.get(VNCORENLP_VARIABLE)
    if not path:
        raise InputError(
            f"--segmenter vncorenlp needs the folder of {VNCORENLP_JAR} and its models in "
            f'{VNCORENLP_VARIABLE}, which is not set. python -c "import py_vncorenlp; '
            "py_vncorenlp.download_model(save_dir='/path/to/vncorenlp')\" "
            f"fills an empty folder; then export {VNCORENLP_VARIABLE}=/path/to/vncorenlp"
        )
    folder = Path(path).expanduser().resolve()
    missing = [name for name in VNCORENLP_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{VNCORENLP_VARIABLE} must name a folder that holds {', '.join(VNCORENLP_FILES)}; "
            f"{folder} lacks {', '.join(missing)}"
        )
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise InputError(
            "--segmenter vncorenlp needs Java 8 or later: found no java in PATH and no JAVA_HOME; "
            "install a Java runtime, or use --segmenter pyvi"
        )
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in VNCORENLP_FILES)).hexdigest()[:8]
    model = _start_vncorenlp(py_vncorenlp, folder)
    name = f"vncorenlp {VNCORENLP_JAR.removeprefix('VnCoreNLP-').removesuffix('.jar')}-{digest}"
    return lambda text: " ".join(model.word_segment(text)) if text else "", name


@cache  # a process can start only one Java virtual machine
def _start_vncorenlp(package: Any, folder: Path) -> Any:
    """Start VnCoreNLP's segmenter in this process; InputError says why Java could not start."""
    import jnius_config

    before = Path.cwd()
    try:
        # leave SIGINT and SIGTERM to Python, which then saves finished work
        jnius_config.add_options("-Xrs")
        return package.VnCoreNLP(annotators=["wseg"], save_dir=str(folder))
    except Exception as error:  # the package and its Java bridge raise many types
        raise InputError(
            f"--segmenter vncorenlp could not start Java with {folder / VNCORENLP_JAR} "
            f"({type(error).__name__}: {error}); install a Java runtime 8 or later and set "
            "JAVA_HOME, or use --segmenter pyvi"
        ) from error
    finally:
        os.chdir(before)  # the package changes the working directory


def segmenter_sha256(name: str) -> str | None:
    """Hash the files of a word segmenter's packages: its code and its models; None for `none`.

    Its version alone does not tell an edited model. Compiled files are left out, because they
    differ between machines. For VnCoreNLP the version holds the hash already.
    """
    packages = {"pyvi": ("pyvi",), "underthesea": ("underthesea", "underthesea_core")}.get(name)
    if packages is None:
        return None
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted(files(package) or (), key=str):
            path = Path(str(file.locate()))
            is_installer = ".dist-info" in file.parts[0] or "__pycache__" in file.parts or ".." in file.parts
            if is_installer or path.suffix in COMPILED or not path.is_file():
                continue
            digest.update(f"{file.as_posix()}|".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
