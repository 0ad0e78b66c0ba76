"""Several processes take the step that one alone would: over gloo."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import make_data, make_text_transformer, make_wave_transformer, read_jsonl
from warm_process import Finished, run_ranks, run_warm

from mervn.config import FinetuneOptions
from mervn.distributed import SINGLE_PROCESS
from mervn.training.sampling import divide_batches

ACCELERATE = """
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from warm_process import WarmScript
subprocess_handler.Popen = WarmScript
from accelerate.commands.accelerate_cli import main
main()
"""
"""The command `accelerate`, which starts its processes as forks, with the variables that it sets for each of them."""
DRIVER = """
import json, os, signal, sys
from pathlib import Path
import mervn.fault_watch
from features.progress import Silent
from mervn.config import FinetuneOptions
from mervn.finetuning.finetune import finetune
from mervn.training.trainer import Trainer
folder = Path(sys.argv[2])
mervn.fault_watch.PATIENCE_S = 1.0  # a killed process never reads the message of the other one
class Printer(Silent):
    def say(self, text):
        print(text)
plain = Trainer._step
signal.signal(signal.SIGTERM, signal.default_int_handler)
def step(self, group, read, seed):
    before = float(self.epoch_loss)
    plain(self, group, read, seed)
    mine = [[batch[p] for p in places] for batch, places in zip(group, self.plan.places(group))]
    line = {{"group": group, "mine": mine, "loss": (float(self.epoch_loss) - before) / sum(map(len, group))}}
    with (folder / f"steps-{{self.processes.process_index}}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\\n")
    {fault}
Trainer._step = step
result = finetune(FinetuneOptions.model_validate_json(sys.argv[1]), None, Printer())
print("main" if result.is_main_process else "other")
"""
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {"batch_size": 4, "epochs": 4, "patience": 4, "workers": 0},
    "no share for some": {
        "batch_size": 1, "accumulate": 4, "epochs": 4, "patience": 4, "class_weights": "balanced", "spec_time": 0.3,
        "spec_frequency": 0.3, "time_mask": 0.3, "drop_text": 0.3, "sampling": "bucket",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    quiet = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
    make_wave_transformer(folder / "wav2vec2", num_hidden_layers=1, **dict.fromkeys(quiet, 0.0))
    quiet = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    make_text_transformer(folder / "bert", "Bert", num_hidden_layers=1, **dict.fromkeys(quiet, 0.0))
    return make_data(folder / "data")


def make_driver(fault: str = "pass") -> str:
    """Return the code of a process; a fault happens after a step, in every process."""
    return DRIVER.format(fault=fault)


def launch(folder: Path, options: FinetuneOptions) -> Finished:
    """Train with two processes as a user would start them: `accelerate launch` starts them."""
    folder.mkdir()
    driver = folder / "driver.py"
    driver.write_text(make_driver())
    command = [
        "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1",
        "--main_process_port", "0", str(driver), options.model_dump_json(exclude_unset=True), str(folder),
    ]  # fmt: skip
    return run_warm(ACCELERATE, command, timeout=300)


def start(folder: Path, processes: int, options: FinetuneOptions, fault: str = "pass") -> Finished:
    """Train with some processes."""
    folder.mkdir(exist_ok=True)
    arguments = [options.model_dump_json(exclude_unset=True), str(folder)]
    if processes == 1:
        return run_warm(make_driver(fault), arguments)
    done = run_ranks(make_driver(fault), arguments, processes)
    codes, outs, errors = zip(*[(each.returncode, each.stdout, each.stderr) for each in done], strict=True)
    return Finished(next(filter(None, codes), 0), "".join(outs), "".join(errors))


def make_options(corpus: Path, output: Path, **changes: Any) -> FinetuneOptions:
    known: dict[str, Any] = {
        "data": corpus, "audio_encoder": f"wav2vec2={corpus.parent / 'wav2vec2'}",
        "text_encoder": f"transformer={corpus.parent / 'bert'}", "dim": 16, "heads": 2, "mlp": (8,),
        "dropout": 0.0, "amp": "off", "workers": 1, "threads": 1, "output": output,
    }  # fmt: skip
    return FinetuneOptions(**{**known, **changes})


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    paths = [run / "model.safetensors", *(run / "encoders" / name / "model.safetensors" for name in ("audio", "text"))]
    return {f"{path.parent.name}.{name}": tensor for path in paths for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_two_processes_train_as_one(corpus: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    for count in (1, 2):
        folder = tmp_path / str(count)
        options = make_options(corpus, folder / "run", **changes)
        done = launch(folder, options) if count == 2 and changes == CHANGES["plain"] else start(folder, count, options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("parameters are trained") == 1 and done.stdout.count("other") == count - 1
    one = read_jsonl(tmp_path / "1" / "steps-0.jsonl")
    shares = [read_jsonl(tmp_path / "2" / f"steps-{rank}.jsonl") for rank in (0, 1)]
    assert len(one) >= 20 and len(one) == len(shares[0]) == len(shares[1])
    for alone, *both in zip(one, *shares, strict=True):
        assert alone["group"] == both[0]["group"] == both[1]["group"] == alone["mine"]
        for batch, *mine in zip(alone["group"], both[0]["mine"], both[1]["mine"], strict=True):
            assert sorted(mine[0] + mine[1]) == sorted(batch)
        assert both[0]["loss"] + both[1]["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        assert both[0]["loss"] != pytest.approx(alone["loss"], abs=1e-3)  # half of it is not the whole
    weights, shared = (weights_of(tmp_path / str(count) / "run") for count in (1, 2))
    assert max(float((weights[name] - shared[name]).abs().max()) for name in weights) <= 1e-4
    histories = [read_jsonl(tmp_path / str(count) / "run" / "history.jsonl") for count in (1, 2)]
    moved = histories[0][1]["train_loss"] - histories[0][-1]["train_loss"]
    assert abs(moved) > 1e-3  # so that equal weights are weights that were trained
    for alone, both in zip(*histories, strict=True):
        assert both["valid"]["nll"] == pytest.approx(alone["valid"]["nll"], abs=1e-4)


STOPPED: dict[str, Any] = {"batch_size": 4, "epochs": 2, "dropout": 0.3, "checkpoint_steps": 2}
FAULTS = {
    "one is killed": (
        "seed[1:] == (2, 3) and self.processes.process_index == 1 and os.kill(os.getpid(), 9)",
        "epoch-00002-step-000002",
        0,
    ),
    "Ctrl-C": (
        "seed[1:] == (2, 2) and self.processes.process_index == 1 and os.killpg(0, signal.SIGINT)",
        "epoch-00002-step-000003",
        1,
    ),
}
"""After which steps; the checkpoint that is there then, that of the last second step or of the very step; and how many
processes read for each one. Those of a killed process hold its connections for five seconds more."""


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of two processes that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder, 2, make_options(corpus, folder / "run", **STOPPED)).returncode == 0
    return folder / "run"


@pytest.mark.parametrize(("fault", "checkpoint", "workers"), FAULTS.values(), ids=FAULTS)
def test_two_processes_that_were_stopped_go_on_exactly(
    corpus: Path, whole: Path, tmp_path: Path, fault: str, checkpoint: str, workers: int
) -> None:
    broken = tmp_path / "broken"
    options = make_options(corpus, broken / "run", workers=workers, **STOPPED)
    assert start(broken, 2, options, fault).returncode != 0
    assert not (broken / "run" / "metrics.json").exists()
    assert (broken / "run" / "checkpoints" / checkpoint).is_dir()
    alone = start(broken, 1, options)
    assert alone.returncode == 1 and "written by 2 processes, found 1 now" in alone.stderr
    assert start(broken, 2, options).returncode == 0
    for name in ("metrics.json", "model.safetensors", "predictions-valid.jsonl", "encoders/audio/model.safetensors"):
        assert (broken / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_an_error_of_one_is_the_error_of_all(corpus: Path, tmp_path: Path) -> None:
    options = make_options(corpus, tmp_path / "run", epochs=1)
    (tmp_path / "run").write_text("a file")
    done = start(tmp_path / "driver", 2, options)
    assert done.returncode != 0
    assert done.stderr.count("must be a folder for the run, found a file") >= 1


def test_a_batch_is_shared_by_its_cost() -> None:
    generator = np.random.default_rng(0)
    for processes in (1, 2, 3, 8):
        for size in (0, 1, 5, 32):
            costs = generator.integers(1, 1500, size)
            (shares,) = divide_batches([costs], processes)
            assert sorted(place for share in shares for place in share) == list(range(size))
            assert all(share == sorted(share) for share in shares) and len(shares) == processes
            loads = [costs[share].sum() for share in shares]
            best = max(costs.max(initial=0), costs.sum() / processes)
            assert max(loads, default=0) <= 4 / 3 * best + costs.max(initial=0) * (size < processes)
            if size >= 4 * processes:
                assert max(loads) <= 1.2 * costs.sum() / processes
    assert divide_batches([np.array([5])] * 4, 2) == [[[0], []], [[], [0]]] * 2  # batches of one take turns


def test_one_alone_is_everybody() -> None:
    assert (
        SINGLE_PROCESS.is_main_process
        and SINGLE_PROCESS.gather(3) == [3]
        and SINGLE_PROCESS.any_process(True)
        and not SINGLE_PROCESS.any_process(False)
    )
    assert list(SINGLE_PROCESS.portion([1, 2])) == [1, 2]
    assert SINGLE_PROCESS.on_main_process(lambda: 7) == 7
