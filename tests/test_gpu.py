"""What only a GPU can show; skipped without one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from every_encoder import CASES as ENCODER_CASES
from every_encoder import differences, load
from test_extract import run as extract
from test_train_head import RESULTS, data, made, train  # noqa: F401
from tiny import make_data, make_wave_transformer, wave
from torch import Tensor

import features.memory
from features.device import exact_fp32, to_device
from features.extraction.host_copy import HostCopy
from features.progress import SILENT
from features.ragged import Ragged
from features.store.reader import FeatureStore
from features.store.rejected import read_rejected
from mervn.config import FinetuneOptions, HeadOptions, TrainHeadOptions
from mervn.data.split import BatchRequest
from mervn.data.streamed_frames import TRANSFER_BATCHES
from mervn.data.streams import StreamShape
from mervn.finetuning.finetune import finetune
from mervn.model.head import Head, build_head
from mervn.registry import FUSIONS, POOLINGS
from mervn.training.optimization import Precision
from mervn.training.setup import open_stored_data, resolve_head_options
from mervn.training.train_head import train_head
from mervn.training.trainer import Trainer

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]
CUDA = torch.device("cuda")
CASES = [
    (fusion, pooling)
    for fusion in FUSIONS
    for pooling in POOLINGS
    if (fusion, pooling) != ("audio", "cls") and (pooling == "mean" or not FUSIONS[fusion].linear)
]
SHAPES = {"text": StreamShape(64), "audio": StreamShape(48)}
SIZES = {"text": (40, 7, 0, 21), "audio": (1500, 1400, 900, 1500)}
TARGETS = [0, 1, 2, 1]


def make_head(fusion: str, pooling: str) -> Head:
    torch.manual_seed(0)
    options = HeadOptions.model_validate({"fusion": fusion, "pooling": pooling, "dim": 64, "heads": 4, "dropout": 0.0})
    return build_head(options, SHAPES, 3).to(CUDA)


def make_streams() -> dict[str, Ragged]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: Ragged.from_lengths(torch.randn(sum(SIZES[name]), shape.width, generator=generator), SIZES[name]).to(CUDA)
        for name, shape in SHAPES.items()
    }


def gradients(head: Head, streams: dict[str, Ragged], amp: str) -> dict[str, Tensor]:
    head.zero_grad()
    precision, targets = Precision(amp, CUDA), to_device(torch.tensor(TARGETS), CUDA)
    with precision.autocast():
        logits = head(dict(streams))
    precision.backward(torch.nn.functional.cross_entropy(logits, targets))
    return {name: p.grad.clone() for name, p in head.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("fusion", "pooling"), CASES)
def test_gradients_in_bf16_are_those_of_fp32(fusion: str, pooling: str) -> None:
    head, streams = make_head(fusion, pooling), make_streams()
    exact, rounded = (gradients(head, streams, amp) for amp in ("off", "bf16"))
    assert exact.keys() == rounded.keys()
    whole, found = (torch.cat([g.flatten() for g in some.values()]) for some in (exact, rounded))
    assert torch.nn.functional.cosine_similarity(found, whole, dim=0) > 0.97
    assert (found.norm() / whole.norm()).item() == pytest.approx(1, abs=0.1)
    for name, gradient in exact.items():
        assert rounded[name].any() or not gradient.any(), f"the gradient of {name} vanishes"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_prediction_alone_is_that_of_a_batch(fusion: str) -> None:
    head, streams = make_head(fusion, "mean").eval(), make_streams()
    with exact_fp32(), torch.inference_mode():
        together = head(dict(streams)).double().softmax(-1)
        for i in range(len(TARGETS)):
            one = {name: Ragged.from_sequences([stream.split()[i]]) for name, stream in streams.items()}
            torch.testing.assert_close(head(one).double().softmax(-1)[0], together[i], atol=2e-5, rtol=0)


def test_a_forward_does_not_wait_for_the_gpu() -> None:
    head, streams = make_head("bilstm_attn", "attn"), make_streams()
    gradients(head, streams, "bf16")  # libraries are set up at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(head, streams, "bf16")
        Ragged.from_lengths(streams["audio"].values, SIZES["audio"])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_copy_to_the_host_does_not_wait_for_the_gpu() -> None:
    output = make_streams()["audio"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        copy = HostCopy(output)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for found, expected in zip(copy.sequences(), output.split(), strict=True):
        np.testing.assert_array_equal(found, expected.cpu().numpy())


@pytest.mark.parametrize("name", ["fourier2vec", "whisper"])
def test_workers_change_no_features(name: str, checkpoints: dict[str, str], tmp_path: Path) -> None:
    corpus = make_data(tmp_path / "data", rate=22_050)
    selector = f"whisper={checkpoints['whisper']}" if name == "whisper" else name
    changes: dict[str, Any] = {"device": "cuda", "store_dtype": "fp32", "batch_seconds": 6.0}
    stores = []
    for workers in (0, 4):
        result = extract(corpus, selector, features_dir=tmp_path / str(workers), workers=workers, **changes)
        stores.append(FeatureStore(result.path))
    assert len(stores[0]) == len(stores[1]) == 42
    for utterance in stores[0]:
        np.testing.assert_allclose(stores[1][utterance], stores[0][utterance], atol=2e-5, rtol=0)


@pytest.mark.parametrize("memory_gb", [None, 0.0], ids=["resident", "streamed"])
@pytest.mark.parametrize("fusion", ["xattn", "cnn_bilstm_attn"])
def test_a_step_of_training_does_not_wait_for_the_gpu(
    fusion: str,
    memory_gb: float | None,
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, watched = Trainer._step, []

    def watch(self: Trainer, *arguments: Any) -> None:
        # libraries are set up, and memory is pinned, in the first steps
        torch.cuda.set_sync_debug_mode("error" if len(watched) > 4 else "default")
        try:
            step(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        watched.append(arguments)

    monkeypatch.setattr(Trainer, "_step", watch)
    train(data, tmp_path / "run", device="cuda", fusion=fusion, memory_gb=memory_gb, epochs=4, class_weights="balanced")
    assert len(watched) > 8


def test_control_waiting_within_a_step_is_an_error() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
            torch.ones(1, device=CUDA).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_epoch_of_features_goes_to_the_gpu_in_few_copies(data: Path) -> None:  # noqa: F811
    options = TrainHeadOptions(device="cuda")
    split = open_stored_data(resolve_head_options(options), data, SILENT).splits["train"]
    plan = [BatchRequest([i % len(split)]) for i in range(2 * TRANSFER_BATCHES - 1)]

    def copies() -> int:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            for batch in split.batches(plan, CUDA):
                batch.inputs()
            torch.cuda.synchronize()
        return sum(event.count for event in profile.key_averages() if "HtoD" in event.key)

    # streamed: lengths and targets once, then the frames of 1, 2, 4, ..., TRANSFER_BATCHES batches
    assert copies() == 1 + TRANSFER_BATCHES.bit_length()
    for layers in split.streams.values():
        layers[0].load(CUDA)
    assert copies() == 1


def test_deterministic_training_gives_the_same_bytes_twice(data: Path, tmp_path: Path) -> None:  # noqa: F811
    runs = [train(data, tmp_path / name, device="cuda", deterministic=True).path for name in ("first", "second")]
    for name in RESULTS:
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()


def test_the_mean_of_the_last_epochs_is_that_of_its_checkpoints(data: Path, tmp_path: Path) -> None:  # noqa: F811
    changes: dict[str, Any] = {"average_last": 2, "epochs": 4, "deterministic": True}
    runs = [train(data, tmp_path / name, device="cuda", **changes).path for name in ("first", "second")]
    last = train(data, tmp_path / "last", device="cuda", epochs=4, deterministic=True).path
    for name in RESULTS:
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()
    assert (runs[0] / "model.safetensors").read_bytes() != (last / "model.safetensors").read_bytes()


def test_the_linear_baseline_is_that_of_a_cpu(data: Path, tmp_path: Path) -> None:  # noqa: F811
    probabilities = []
    for device in ("cuda", "cpu"):
        options = TrainHeadOptions(output=tmp_path / device, device=device, fusion="linear")
        run = train_head(options, data).path
        lines = (run / "predictions-valid.jsonl").read_text().splitlines()
        probabilities.append([[*json.loads(line)["probabilities"].values()] for line in lines])
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=1e-5)


def test_layouts_are_those_of_a_cpu() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(0, 9, 6).tolist()
        values = torch.empty(sum(sizes), 2)
        here, there = Ragged.from_lengths(values, sizes), Ragged.from_lengths(values.to(CUDA), sizes)
        for name in ("lengths", "segments", "index", "steps", "reversed_steps"):
            assert torch.equal(getattr(here.layout, name), getattr(there.layout, name).cpu())


def test_batches_of_resident_features_are_those_of_a_cpu(data: Path) -> None:  # noqa: F811
    split = open_stored_data(resolve_head_options(TrainHeadOptions()), data, SILENT).splits["train"]
    plan = [BatchRequest(indices) for indices in ([5, 0, 2], [3, 4], [1, 5])]
    expected = [batch.inputs() for batch in split.batches(plan, torch.device("cpu"))]
    for layers in split.streams.values():
        layers[0].load(CUDA)
    for batch, streams in zip(split.batches(plan, CUDA), expected, strict=True):
        for name, stream in batch.inputs().items():
            assert torch.equal(stream.values.cpu(), streams[name].values)
            assert torch.equal(stream.index.cpu(), streams[name].index)


@pytest.mark.parametrize("name", ENCODER_CASES)
def test_features_alone_are_those_of_a_batch(name: str, checkpoints: dict[str, str]) -> None:
    encoder = load(name, checkpoints)
    with exact_fp32():
        assert max(differences(encoder, "cuda")) <= 2e-5


@pytest.fixture
def memory_limit() -> Iterator[Any]:
    """A function that leaves the process this many bytes of the GPU."""
    total = torch.cuda.get_device_properties(CUDA).total_memory
    yield lambda size: torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_batches_that_do_not_fit_are_halved_and_what_never_fits_is_rejected(
    tmp_path: Path, memory_limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_wave_transformer(tmp_path / "wav2vec2")
    data = make_data(tmp_path / "data", {"train": 24, "valid": 2, "test": 2})  # noqa: F811
    for i in range(24):
        soundfile.write(data / f"train-{i:03d}.wav", wave(4.0 + i / 8, i), 16_000)
    settings: dict[str, Any] = {"device": "cuda", "store_dtype": "fp32"}
    selector = f"wav2vec2={model}"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = FeatureStore(extract(data, selector, batch_seconds=14.0, features_dir=tmp_path / "whole", **settings).path)
    allowed = torch.cuda.max_memory_reserved()
    soundfile.write(data / "valid-000.wav", wave(600.0, 1), 16_000)
    torch.cuda.empty_cache()
    released: list[torch.device] = []
    release = features.memory.release_memory
    monkeypatch.setattr(features.memory, "release_memory", lambda device: (released.append(device), release(device)))
    memory_limit(allowed + 8_000_000)
    result = extract(data, selector, batch_seconds=100_000.0, features_dir=tmp_path / "halved", **settings)
    assert (result.encoded, result.rejected) == (27, 1)
    assert len(released) >= 3  # of the batch, of a half of it, and of the long utterance alone
    (rejected,) = read_rejected(Path(result.path)).values()
    assert rejected.utterance_id == "valid-000" and "memory" in rejected.reason
    halved = FeatureStore(result.path)
    for name in halved:
        np.testing.assert_allclose(halved[name], whole[name], atol=2e-5, rtol=0)


def test_two_extractions_share_a_gpu(tmp_path: Path) -> None:
    model = make_wave_transformer(tmp_path / "wav2vec2")
    data = make_data(tmp_path / "data", {"train": 700, "valid": 20, "test": 20})  # noqa: F811

    def start(folder: str) -> Any:
        command = [
            *(sys.executable, "-c", "from cli.main import main; main()", "extract", "--data", str(data), "--json"),
            *("--audio-encoder", f"wav2vec2={model}", "--features-dir", str(tmp_path / folder)),
            *("--device", "cuda", "--batch-seconds", "30", "--store-dtype", "fp32"),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    processes = [start("both"), start("both"), start("alone")]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    results = [json.loads(out.splitlines()[-1])["stores"][0] for out, _ in answers]
    assert sum(result["encoded"] for result in results[:2]) == 740, results
    both, alone = (FeatureStore(result["path"]) for result in results[1:])
    assert len(both) == len(alone) == 740
    for name in alone:
        np.testing.assert_allclose(both[name], alone[name], atol=2e-5, rtol=0)


def test_fine_tuning_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    model = make_wave_transformer(tmp_path / "wav2vec2")
    options: dict[str, Any] = {
        "data": make_data(tmp_path / "data"), "audio_encoder": f"wav2vec2={model}", "text_encoder": "hashed_ngrams",
        "dim": 16, "heads": 2, "mlp": (8,), "epochs": 2, "batch_size": 8, "device": "cuda", "deterministic": True,
        "workers": 0,
    }  # fmt: skip
    runs = [finetune(FinetuneOptions(output=tmp_path / name, **options), None).path for name in ("first", "second")]
    for name in (*RESULTS, "encoders/audio/model.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()
    parity = json.loads((runs[0] / "environment.json").read_text()).get("parity")
    assert parity is None or parity["logits"] <= 1e-4


def test_processes_need_a_gpu_each(tmp_path: Path) -> None:
    count = torch.cuda.device_count() + 1
    options = FinetuneOptions(
        data=make_data(tmp_path / "data"), audio_encoder="fourier2vec", text_encoder="hashed_ngrams", device="cuda"
    )
    code = "import sys; from mervn.config import FinetuneOptions; from mervn.finetuning.finetune import finetune; "
    code += "finetune(FinetuneOptions.model_validate_json(sys.argv[1]), None)"
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "RANK": "0", "LOCAL_RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, options.model_dump_json(exclude_unset=True)],
        capture_output=True, text=True, timeout=120, env=os.environ | world,
    )  # fmt: skip
    assert f"{count} processes on this machine need a GPU each, found {count - 1}" in done.stderr
