"""Stores and runs of an earlier version are found, verified and evaluated; a run resumes exactly, or is refused."""

import contextlib
import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.main import run as run_command

EARLIER = Path(__file__).parent / "data" / "earlier"
HEAD = shlex.split(
    "--fusion xattn --dim 16 --heads 2 --mlp 16 --batch-size 4 --epochs 6 --patience 6 --seed 3 --dropout 0.2 "
    "--amp off --threads 1 --drop-text 0.2"
)
FINETUNE = shlex.split(
    "--fusion audio --dim 16 --mlp 16 --epochs 5 --amp off --threads 1 --seed 1 --workers 0 --device cpu "
    "--unfreeze-last 1 --patience 5"
)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A copy whose files name their new place."""
    folder = tmp_path / "earlier"
    shutil.copytree(EARLIER, folder)
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        text = path.read_text("utf-8")
        if "/EARLIER" in text:
            path.write_text(text.replace("/EARLIER", str(folder)), "utf-8")
    return folder


def run(*arguments: object) -> str:
    """Run a command and return what it printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = run_command([str(argument) for argument in arguments])
    assert code == 0, output.getvalue()
    return output.getvalue()


def made_here() -> bool:
    """Whether this machine rounds as the one that wrote the files."""
    made_on = json.loads((EARLIER / "made_on.json").read_text("utf-8"))
    vendor = ""
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        lines = [line for line in cpuinfo.read_text("utf-8").splitlines() if line.startswith("vendor_id")]
        vendor = lines[0].split(":")[1].strip() if lines else ""
    return bool(
        made_on["torch"] == torch.__version__.split("+")[0]
        and made_on["capability"] == torch.backends.cpu.get_cpu_capability()
        and made_on["vendor"] == vendor
    )


def assert_equal(found: Path, expected: Path, same_rounding: bool = True) -> None:
    """Compare two result files: bytes on a like machine if layers still round as before, else numbers to 1e-5."""
    if found.name == "metrics.json":  # the same keys, and one more
        document, before = (json.loads(path.read_text("utf-8")) for path in (found, expected))
        assert document.pop("content_sha256") and document.pop("trained_model_sha256")
        assert document == before if same_rounding and made_here() else True
        assert_near(document, before)
        return
    if same_rounding and made_here():
        assert found.read_bytes() == expected.read_bytes()
    for mine, theirs in zip(
        found.read_text("utf-8").splitlines(), expected.read_text("utf-8").splitlines(), strict=True
    ):
        if found.suffix == ".jsonl":
            assert_near(json.loads(mine), json.loads(theirs))
    if found.suffix == ".json":
        assert_near(json.loads(found.read_text("utf-8")), json.loads(expected.read_text("utf-8")))


def assert_near(found: Any, expected: Any) -> None:
    """Compare JSON, numbers to 1e-5."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_near(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert_near(mine, theirs)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_stores_are_found_verified_and_kept(earlier: Path, kind: str) -> None:
    stores = earlier / f"stores-{kind}"
    names = sorted(path.name for path in stores.glob("*/*"))
    before = {path: path.read_bytes() for path in stores.rglob("*") if "part-" in str(path) and path.is_file()}
    listed = run("store", "list", "--data", earlier / "data", "--features-dir", stores)
    assert all(name in listed for name in names), listed
    for path in stores.glob("*/*"):
        run("store", "verify", path)
    output = run(
        "extract", "--data", earlier / "data", "--features-dir", stores, "--audio-encoder", "fourier2vec",
        "--text-encoder", "hashed_ngrams", "--threads", "1",
    )  # fmt: skip
    assert output.count("0 encoded") >= 2, output
    assert sorted(path.name for path in stores.glob("*/*")) == names
    assert {path: path.read_bytes() for path in before} == before


def test_a_changed_value_is_noticed(earlier: Path) -> None:
    part = next((earlier / "stores-hdf5").glob("audio/*/part-*.h5"))
    content = bytearray(part.read_bytes())
    content[-2000] ^= 0xFF
    part.write_bytes(bytes(content))
    assert run_command(["store", "verify", str(part.parent)]) == 1


def test_a_finished_run_is_evaluated_to_the_same_predictions(earlier: Path) -> None:
    finished = earlier / "runs" / "finished"
    expected = earlier / "expected.jsonl"
    shutil.move(finished / "predictions-valid.jsonl", expected)
    run("evaluate", finished, "--split", "valid", "--threads", "1")
    # attention rounds differently since numerics version 2
    assert_equal(finished / "predictions-valid.jsonl", expected, same_rounding=False)
    assert "complete already" in run(
        "train-head", "--data", earlier / "data", "--features-dir", earlier / "stores-hdf5", "--output", finished, *HEAD
    )


def test_an_interrupted_run_with_attention_of_other_rounding_is_refused_and_trained_again(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed, it would equal no undisturbed run: since numerics version 2, attention rounds differently."""
    interrupted, finished = earlier / "runs" / "interrupted", earlier / "runs" / "finished"
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    command = [
        *("train-head", "--data", str(earlier / "data"), "--features-dir", str(earlier / "stores-zarr")),
        *("--output", str(interrupted), *HEAD),
    ]
    assert run_command(command) == 1
    error = capsys.readouterr().err
    assert "whose MultiheadAttention rounds differently (numerics 1, here 4)" in error and "--force" in error
    assert {path: path.read_bytes() for path in before} == before
    run(*command, "--force")
    for name in ("metrics.json", "predictions-valid.jsonl"):
        assert_equal(interrupted / name, finished / name, same_rounding=False)
    hashes = [json.loads((path / "config.json").read_text("utf-8"))["hash"] for path in (interrupted, finished)]
    assert hashes[0] == hashes[1]


def test_interrupted_fine_tuning_is_resumed_to_the_same_result(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(earlier)  # the metrics name the model as it was given
    interrupted, finished = earlier / "runs" / "finetune-interrupted", earlier / "runs" / "finetuned"
    output = run(
        "finetune", "--data", earlier / "data", "--audio-encoder", "whisper=whisper-tiny",
        "--output", interrupted, *FINETUNE,
    )  # fmt: skip
    assert "epoch 3/" not in output and "epoch 4/" in output
    for name in ("metrics.json", "predictions-valid.jsonl"):
        assert_equal(interrupted / name, finished / name)
