"""Measure what an extraction costs before its first batch, for up to a million utterances.

    python benchmarks/scale_planning.py [--tiny] [--json]

The corpus is that of a call centre: recordings of 500 segments each, and manifests with transcripts.
All features are stored already, so that the command reads the manifests, the headers of the audio,
the index of the store and the stored inputs, plans, and says that there is nothing to do. Once the
corpus has a file per utterance. The recordings are sparse files, whose samples are zeros and take no
space on disk; the store has one frame of 32 numbers per utterance, and 256 utterances per part.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from report import Figure, MessagesOnly, report

from features.encoders.fourier2vec import DEFAULTS, Fourier2Vec
from features.encoders.selector import parse_selector
from features.extraction.extract import extract_stream
from features.extraction.measure import measure
from features.extraction.settings import ExtractSettings, open_encoder, provenance, store_identity
from features.manifests.manifest import read_manifests
from features.store.identity import create_store
from features.store.part import StoredUtterance
from features.store.writer import StoreWriter

RATE = 8000
SEGMENTS_PER_RECORDING = 500
SEGMENT_S = 1.5
WORDS = ("dạ", "em", "chào", "anh", "chị", "cho", "hỏi", "đơn", "hàng", "của", "mình", "bao", "giờ", "giao", "ạ")
FILES = 200_000
"""Maximum number of utterances of the corpus with a file per utterance."""
IN_PROCESS = 10_000
"""Corpora up to this size are planned in this process, for a test of this benchmark."""
SMALL = {"dim": 32, "num_layers": 1, "heads": 2, "position_kernel": 7, "position_groups": 4}
"""Size of the encoder, whose weights are loaded in any case."""


def make_corpus(data: Path, count: int, per_file: int) -> None:
    """Write the manifest and the audio of `count` utterances, `per_file` segments in each file.

    A file of one utterance needs no start and end.
    """
    seconds = per_file * SEGMENT_S
    (data / "calls").mkdir(parents=True)
    for number in range(-(-count // per_file)):
        write_silence(data / "calls" / f"call-{number:07d}.wav", round(seconds * RATE))
    generator = random.Random(0)
    with (data / "train.jsonl").open("w", encoding="utf-8") as file:
        for i in range(count):
            number, segment = divmod(i, per_file)
            line: dict[str, object] = {
                "utterance_id": f"call-{number:07d}-{segment:04d}",
                "speaker_id": f"agent-{number % 300:03d}",
                "wav_path": f"calls/call-{number:07d}.wav",
            }
            if per_file > 1:
                start = segment * SEGMENT_S
                line |= {"start": start, "end": round(start + generator.uniform(0.4, SEGMENT_S), 3)}
            line |= {"transcript": " ".join(generator.choices(WORDS, k=10)), "queue": f"q{number % 7}"}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_silence(path: Path, num_samples: int) -> None:
    """Write a WAV file of 16-bit zeros that takes one block on disk."""
    size = 2 * num_samples
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16,
                         b"data", size)  # fmt: skip
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def fill_store(data: Path, encoder: str) -> None:
    """Write a store that holds all utterances of a corpus, with the sources of their audio."""
    selector, settings = parse_selector(encoder, "audio"), ExtractSettings(data / "stores", device="cpu")
    loaded = open_encoder(selector, settings)
    identity = store_identity(loaded, selector, loaded.layers[0], settings)
    info = create_store(
        settings.features_dir, identity, provenance(selector, loaded, torch.device("cpu")), loaded.model_name
    )
    utterances = read_manifests(data, ("train",), require_emotion=False)["train"]
    measured = measure(utterances, loaded, settings)
    values = np.zeros((1, loaded.dim), np.float16)
    # the data need not survive a power failure
    with patch("os.fsync"), StoreWriter(info) as writer:
        for i in range(len(utterances)):
            name = utterances.utterance_id(i)
            digest = hashlib.sha256(name.encode()).hexdigest()
            samples = round(float(measured.sizes[i]) * 16_000)
            writer.add([StoredUtterance(name, values, samples, digest, measured.sources[i])])


def plan_once(data: Path, encoder: str) -> dict[str, float]:
    """Run an extraction that has nothing to do; return CPU seconds and bytes of memory, without imports.

    The seconds include those of the processes that it starts, the bytes do not.
    """
    before, started = reset_peak(), cpu_seconds()
    utterances = read_manifests(data, ("train",), require_emotion=False)["train"]
    settings = ExtractSettings(data / "stores", device="cpu")
    (result,) = extract_stream(utterances, parse_selector(encoder, "audio"), settings, MessagesOnly())
    if (result.encoded, result.kept) != (0, len(utterances)):
        raise RuntimeError(f"the store must hold all {len(utterances)} utterances, found {result.kept}")
    seconds = cpu_seconds() - started
    return {"seconds": seconds, "bytes": status_bytes("VmHWM") - before}


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def reset_peak() -> int:
    """Set the peak of this process's memory to its memory now, and return that in bytes.

    `getrusage` would begin with the peak of the process that started this one.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def status_bytes(name: str) -> int:
    """Return a size in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def measure_corpus(folder: Path, count: int, per_file: int) -> dict[str, float]:
    """Make a corpus and its store, plan, remove them; return `plan_once`, and the whole command's seconds."""
    data = folder / f"corpus-{count}-{per_file}"
    encoder = f"fourier2vec={folder / 'encoder'}"
    if not (folder / "encoder").exists():
        Fourier2Vec(DEFAULTS | SMALL).save(folder / "encoder")
    try:
        make_corpus(data, count, per_file)
        if count <= IN_PROCESS:
            fill_store(data, encoder)
            found = plan_once(data, encoder)
            return {**found, "command": found["seconds"]}
        run_child("fill", data, encoder)
        found = json.loads(run_child("plan", data, encoder))
        return {**found, "command": run_command(data, encoder, count)}
    finally:
        shutil.rmtree(data, ignore_errors=True)


def run_command(data: Path, encoder: str, count: int) -> float:
    """Run `mervn extract`, which keeps all utterances; return its seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-c", "from cli.main import main; main()", "extract", "--data", str(data), "--json"]
    options = ["--audio-encoder", encoder, "--splits", "train", "--device", "cpu"]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    (store,) = json.loads(done.stdout.splitlines()[-1])["stores"]
    if (store["encoded"], store["kept"]) != (0, count):
        raise RuntimeError(f"the store must hold all {count} utterances, found {store['kept']}")
    return seconds


def run_child(step: str, data: Path, encoder: str) -> str:
    """Run one step in a process of its own, whose memory holds nothing else; return the last line it printed."""
    command = [sys.executable, __file__, "--step", step, str(data), encoder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def measure_planning(sizes: Sequence[int], folder: Path) -> list[Figure]:
    """Measure extractions that have nothing to do, of corpora of these sizes, in rising order."""
    runs = [measure_corpus(folder, count, SEGMENTS_PER_RECORDING) for count in sizes]
    seconds = [run["seconds"] for run in runs]
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    in_files = min(FILES, sizes[-1])
    single = measure_corpus(folder, in_files, 1)
    million = "1m" if sizes[-1] == 1_000_000 else str(sizes[-1])
    memory = (runs[-1]["bytes"] - runs[0]["bytes"]) / (sizes[-1] - sizes[0])
    return [
        Figure(
            "scale.plan.exponent",
            f"exponent of the CPU seconds with nothing to do, {sizes[0]} to {sizes[-1]} utterances",
            exponent,
            1.1,
            "lower",
        ),
        Figure(
            f"scale.plan_kept_{million}",
            f"seconds of mervn extract with {sizes[-1]} utterances and nothing to do, start included",
            runs[-1]["command"],
            30.0 if million == "1m" else None,
            "lower",
        ),
        Figure(f"scale.plan_cpu_{million}", "CPU seconds of it, without the start", runs[-1]["seconds"], None, "lower"),
        Figure("scale.memory_per_utterance.plan", "bytes of memory per utterance at the peak", memory, 400.0, "lower"),
        Figure(
            "scale.plan_kept_files",
            f"the same with {in_files} utterances, each in a file of its own",
            single["command"],
            None,
            "lower",
        ),
        Figure(
            "scale.memory_per_utterance.plan_files",
            "bytes of memory per utterance in a file of its own",
            single["bytes"] / in_files,
            None,
            "lower",
        ),
    ]


@click.command()
@click.option("--tiny", is_flag=True, help="100 utterances, for a test of this benchmark.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("--sizes", default="50000,200000,1000000", help="Numbers of utterances.")
@click.option("--step", type=(str, Path, str), hidden=True)
def main(tiny: bool, as_json: bool, sizes: str, step: tuple[str, Path, str] | None) -> None:
    """Measure the planning of an extraction."""
    if step is not None:
        name, data, encoder = step
        if name == "plan":
            print(json.dumps(plan_once(data, encoder)))
        else:
            fill_store(data, encoder)
        return
    with tempfile.TemporaryDirectory() as folder:
        counts = [20, 50, 100] if tiny else [int(size) for size in sizes.split(",")]
        report("scale_planning", measure_planning(counts, Path(folder)), as_json)


if __name__ == "__main__":
    main()
