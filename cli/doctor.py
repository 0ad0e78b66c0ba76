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

    part: str
    state: str
    """`ok`, `absent` (optional) or `broken`."""
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return a JSON object."""
        return {"part": self.part, "state": self.state, "found": self.found, "mend": self.fix}


@command("doctor")
def doctor(options: DoctorOptions, output: Output) -> int:
    """Check the installation and explain how to fix problems; the exit code is 1 if a required part is broken."""
    findings = [_examine(part, look) for part, look in CHECKS.items()]
    rows, broken = [], []
    for finding in findings:
        rows.append((finding.part, finding.state, finding.found))
        if finding.state == "broken":
            broken.append(finding.part)
    output.table(("part", "state", "found"), rows)
    for finding in findings:
        if finding.fix:
            output.result(f"{finding.part}: {finding.fix}")
    output.result(f"broken: {', '.join(broken)}" if broken else "all required parts work")
    output.document({"ok": not broken, "parts": list(map(Finding.as_json, findings))})
    return 1 if broken else 0


def _examine(part: str, look: Callable[[], tuple[str, str, str]]) -> Finding:
    try:
        return Finding(part, *look())
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding(part, "broken", first, f"reinstall it: pip install --force-reinstall {part.split(' ')[0]}")


def _python() -> tuple[str, str, str]:
    return "ok", platform.python_version(), ""


def _torch() -> tuple[str, str, str]:
    import torch

    total = torch.ones(3).sum().item()
    if total != 3.0:
        raise RuntimeError(f"torch computes 1 + 1 + 1 = {total}")
    return "ok", f"{torch.__version__}, {torch.get_num_threads()} CPU threads", ""


def _gpu() -> tuple[str, str, str]:
    import torch

    if not torch.cuda.is_available():
        built = "built for CUDA " + torch.version.cuda if torch.version.cuda else "a CPU build"
        return (
            "absent",
            f"torch sees no GPU ({built})",
            "" if not torch.version.cuda else "check the driver: nvidia-smi",
        )
    names = list(map(torch.cuda.get_device_name, range(torch.cuda.device_count())))
    return "ok", ", ".join(names), ""


def _torchaudio() -> tuple[str, str, str]:
    import torch

    from features.audio.resampling import resample
    from features.audio.torchaudio_import import import_torchaudio

    _, way = import_torchaudio()
    resampled = resample(torch.zeros(441).numpy(), 44_100, 16_000)
    if len(resampled) != 160:
        raise RuntimeError(f"resampling 441 samples from 44.1 to 16 kHz must give 160, found {len(resampled)}")
    return "ok", f"{version('torchaudio')}, {way}", ""


def _transformers() -> tuple[str, str, str]:
    from features.audio.torchaudio_import import import_torchaudio

    import_torchaudio()
    from transformers import WhisperModel

    return "ok", f"{version('transformers')} ({WhisperModel.__name__} can be imported)", ""


def _h5py() -> tuple[str, str, str]:
    import h5py

    return "ok", f"{h5py.__version__}, HDF5 {h5py.version.hdf5_version}", ""


def _zarr() -> tuple[str, str, str]:
    import zarr

    return "ok", zarr.__version__, ""


def _ray() -> tuple[str, str, str]:
    try:
        return "ok", version("ray"), ""
    except PackageNotFoundError:
        return "absent", "not installed", "mervn extract --engine ray needs it: pip install 'mervn[ray]'"


def _tensorboard() -> tuple[str, str, str]:
    try:
        return "ok", version("tensorboard"), ""
    except PackageNotFoundError:
        return "absent", "not installed", "--tensorboard needs it: pip install 'mervn[tensorboard]'"


def _soundfile() -> tuple[str, str, str]:
    import soundfile

    formats = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in soundfile.available_formats()]
    fix = "" if "MP3" in formats else "MP3 needs libsndfile 1.1: pip install --upgrade soundfile"
    return "ok", f"{soundfile.__version__}, reads {', '.join(formats)}", fix


def _scikit_learn() -> tuple[str, str, str]:
    import sklearn

    return "ok", sklearn.__version__, ""


def _espeak() -> tuple[str, str, str]:
    if find_spec("espeakng_loader") is None:
        return "absent", "not installed", "mervn demo needs it: pip install 'mervn[demo]'"
    from mervn.demo.espeak import speak

    samples = speak("xin chào", "vi", pitch=50, rate=175, pitch_range=50, volume=100)
    return "ok", f"{version('espeakng-loader')}, speaks Vietnamese ({len(samples)} samples)", ""


def _segmenter(package: str, users: str, extra: str = "segment") -> Callable[[], tuple[str, str, str]]:
    def look() -> tuple[str, str, str]:
        try:
            from features.text.segmenters import load_segmenter

            segment, name = load_segmenter(package)
            return "ok", f"{name.rpartition(' ')[2]}, joins {segment('tôi là sinh viên')!r}", ""
        except InputError as error:
            found = "not installed" if isinstance(error.__cause__, ImportError) else str(error)
            return "absent", found, f"{users} it: pip install 'mervn[{extra}]'"

    return look


def _hub() -> tuple[str, str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    models = sorted(path.name.removeprefix("models--") for path in Path(HF_HUB_CACHE).glob("models--*"))
    offline = ", offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return "ok", f"{HF_HUB_CACHE}: {len(models)} models{offline}", ""


CHECKS: dict[str, Callable[[], tuple[str, str, str]]] = {
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
    "ray": _ray,
    "tensorboard": _tensorboard,
    "hub cache": _hub,
}
