"""`mervn doctor`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from cli.options import command
from cli.output import Output
from features.config import DoctorOptions
from features.errors import InputError


@dataclass(frozen=True)
class Finding:
    """State of one part of the installation, and how to fix it."""

    state: str
    """`ok`, `absent` (optional) or `broken`."""
    found: str
    fix: str = ""
    """How to fix or install it; empty if there is nothing to do."""


Check = Callable[[], Finding]
"""Examines a part; an exception means that it is broken."""
PACKAGES = {"GPU": "torch", "hub cache": "huggingface-hub"}
"""The package to reinstall, for parts that are not named after theirs."""


@command("doctor")
def doctor(options: DoctorOptions, output: Output) -> int:
    """Check the installation and explain how to fix problems.

    The exit code is 1 if a required part is broken.
    """
    rows, fixes, documents = [], [], []
    broken: list[str] = []
    for part, check in CHECKS.items():
        finding = _examine(part, check)
        rows.append((part, finding.state, finding.found))
        documents.append({"part": part, "state": finding.state, "found": finding.found, "mend": finding.fix})
        if finding.fix:
            fixes.append(f"{part}: {finding.fix}")
        if finding.state == "broken":
            broken.append(part)
    output.table(("part", "state", "found"), rows)
    for line in fixes:
        output.result(line)
    output.result(f"broken: {', '.join(broken)}" if broken else "all required parts work")
    output.document({"ok": not broken, "parts": documents})
    return 1 if broken else 0


def _examine(part: str, check: Check) -> Finding:
    """Run a check; if it raises, the part is broken."""
    try:
        return check()
    except Exception as error:  # a damaged installation may raise anything
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        package = PACKAGES.get(part, part)
        return Finding("broken", first_line, f"reinstall it: pip install --force-reinstall {package}")


def _python() -> Finding:
    return Finding("ok", platform.python_version())


def _torch() -> Finding:
    import torch

    total = torch.ones(3).sum().item()
    if total != 3.0:
        raise RuntimeError(f"torch computes 1 + 1 + 1 = {total}")
    return Finding("ok", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        if not torch.version.cuda:
            return Finding("absent", "torch sees no GPU (a CPU build)")
        found = f"torch sees no GPU (built for CUDA {torch.version.cuda})"
        return Finding("absent", found, "check the driver: nvidia-smi")
    names = list(map(torch.cuda.get_device_name, range(torch.cuda.device_count())))
    return Finding("ok", ", ".join(names))


def _torchaudio() -> Finding:
    import torch

    from features.audio.resampling import resample
    from features.audio.torchaudio_import import import_torchaudio

    _, way = import_torchaudio()
    resampled = resample(torch.zeros(441).numpy(), 44_100, 16_000)
    if len(resampled) != 160:
        raise RuntimeError(f"resampling 441 samples from 44.1 to 16 kHz must give 160, found {len(resampled)}")
    return Finding("ok", f"{version('torchaudio')}, {way}")


def _transformers() -> Finding:
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    from transformers import WhisperModel

    return Finding("ok", f"{version('transformers')} ({WhisperModel.__name__} can be imported)")


def _h5py() -> Finding:
    import h5py

    return Finding("ok", f"{h5py.__version__}, HDF5 {h5py.version.hdf5_version}")


def _zarr() -> Finding:
    import zarr

    return Finding("ok", zarr.__version__)


def _optional(package: str, user: str, extra: str | None = None) -> Check:
    """Return the check of a package that `user` needs; by default the extra has the same name."""

    def check() -> Finding:
        try:
            return Finding("ok", version(package))
        except PackageNotFoundError:
            return Finding("absent", "not installed", f"{user} needs it: pip install 'mervn[{extra or package}]'")

    return check


def _soundfile() -> Finding:
    import soundfile

    formats = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in soundfile.available_formats()]
    fix = "" if "MP3" in formats else "MP3 needs libsndfile 1.1: pip install --upgrade soundfile"
    return Finding("ok", f"{soundfile.__version__}, reads {', '.join(formats)}", fix)


def _scikit_learn() -> Finding:
    import sklearn

    return Finding("ok", sklearn.__version__)


def _espeak() -> Finding:
    if find_spec("espeakng_loader") is None:
        return Finding("absent", "not installed", "mervn demo needs it: pip install 'mervn[demo]'")
    from mervn.demo.espeak import speak

    samples = speak("xin chào", "vi", pitch=50, rate=175, pitch_range=50, volume=100)
    return Finding("ok", f"{version('espeakng-loader')}, speaks Vietnamese ({len(samples)} samples)")


def _segmenter(segmenter: str, need: str, extra: str = "segment") -> Check:
    """Return the check of a word segmenter; `need` says what it is for, up to the word "it"."""

    def check() -> Finding:
        try:
            from features.text.segmenters import load_segmenter

            segment, name = load_segmenter(segmenter)
            return Finding("ok", f"{name.rpartition(' ')[2]}, joins {segment('tôi là sinh viên')!r}")
        except InputError as error:
            found = "not installed" if isinstance(error.__cause__, ImportError) else str(error)
            return Finding("absent", found, f"{need} it: pip install 'mervn[{extra}]'")

    return check


def _hub() -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    models = sorted(path.name.removeprefix("models--") for path in Path(HF_HUB_CACHE).glob("models--*"))
    offline = ", offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return Finding("ok", f"{HF_HUB_CACHE}: {len(models)} models{offline}")


CHECKS: dict[str, Check] = {
    "python": _python,
    "torch": _torch,
    "GPU": _gpu,
    "torchaudio": _torchaudio,
    "transformers": _transformers,
    "h5py": _h5py,
    "zarr": _zarr,
    "soundfile": _soundfile,
    "scikit-learn": _scikit_learn,
    "espeakng-loader": _espeak,
    "pyvi": _segmenter("pyvi", "phobert and videberta segment words with"),
    "underthesea": _segmenter("underthesea", "--segmenter underthesea needs"),
    "py_vncorenlp": _segmenter("vncorenlp", "--segmenter vncorenlp needs", "vncorenlp"),
    "jiwer": _optional("jiwer", "the word error rate of mervn transcribe", "asr"),
    "ray": _optional("ray", "--engine ray of mervn extract and mervn ablate"),
    "optuna": _optional("optuna", "mervn ablate --trials", "search"),
    "tensorboard": _optional("tensorboard", "--tensorboard"),
    "pyarrow": _optional("pyarrow", "mervn import hf", "import"),
    "silero-vad": _optional("silero-vad", "mervn predict --vad", "vad"),
    "hub cache": _hub,
}
