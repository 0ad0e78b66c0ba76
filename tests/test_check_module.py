"""Custom modules: check-module finds faults in invalid ones, and a run keeps copies of valid ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_head import SMALL, data, made, outcome, train
from tiny import read_jsonl

from cli.main import run as mervn
from features.errors import InputError, UsageError
from features.progress import SILENT
from mervn.config import EvaluateOptions, TrainHeadOptions
from mervn.data.streams import open_streams
from mervn.evaluation.evaluate import evaluate
from mervn.model.check_module import check_module
from mervn.model.loss_checks import LOSS_CHECKS
from mervn.model.module_checks import HEAD_CHECKS
from mervn.model.saved_run import load_head
from mervn.registry import LOSSES
from mervn.run_folder import default_folder, read_config
from mervn.training.setup import open_stored_data, resolve_head_options
from mervn.training.train_head import train_on

__all__ = ["data", "made"]  # fixtures
PAGE = Path(__file__).parent.parent / "docs" / "custom-modules.md"
HEADER = """
import torch
from torch import nn
from features.ragged import Ragged, concatenate, segment_mean


class Base(nn.Module):
    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.map = nn.Linear(dim, dim)
        self.dim = dim

    def forward(self, streams):
        text, audio = streams["text"], streams["audio"]
        return [concatenate(text.replace(self.map(text.values)), audio.replace(self.map(audio.values)))]
"""
FAULTY_FUSIONS = {
    "forward runs": "def forward(self, streams):\n        return streams['text']",
    "batch = alone": "def forward(self, streams):\n"
    "        x = super().forward(streams)[0]\n"
    "        return [x.replace(x.values + x.pad().mean((0, 1)))]",
    "NaN in the padding": "count = 0\n    def forward(self, streams):\n"
    "        (x,) = super().forward(streams)\n"
    "        self.count += 1\n"
    "        return [x.replace(x.values + 0.1 * self.count)]",
    "order of the batch": "def forward(self, streams):\n"
    "        (x,) = super().forward(streams)\n"
    "        return [x.replace(x.values + 0.1 * x.segments[:, None])]",
    "length 0 and 1": "def forward(self, streams):\n"
    "        (x,) = super().forward(streams)\n"
    "        return [x.replace(x.values / (x.lengths[x.segments][:, None] - 1))]",
    "gradients within the utterance": "def forward(self, streams):\n"
    "        (x,) = super().forward({n: s.replace(s.values.detach()) for n, s in streams.items()})\n"
    "        return [x]",
    "every parameter has a gradient": "def __init__(self, *args):\n"
    "        super().__init__(*args)\n"
    "        self.unused = nn.Linear(2, 2)",
    "saved and loaded": "def __init__(self, *args):\n"
    "        super().__init__(*args)\n"
    "        self.kept = torch.randn(self.dim)\n\n"
    "    def forward(self, streams):\n"
    "        (x,) = super().forward(streams)\n"
    "        return [x.replace(x.values * self.kept)]",
    "deterministic in eval mode": "def forward(self, streams):\n"
    "        (x,) = super().forward(streams)\n"
    "        return [x.replace(nn.functional.dropout(x.values, 0.5))]",
    "logits depend on the input": "def forward(self, streams):\n"
    "        (x,) = super().forward(streams)\n"
    "        return [x.replace(x.values * 0 + self.map.bias)]",
    "bf16": "def forward(self, streams):\n"
    "        (x,) = super().forward(streams)\n"
    "        return [x.replace((x.values * 1e3).cos().to(x.values.dtype))]",
}
FAULTY_LOSSES = {
    "forward runs": "return nn.functional.cross_entropy(logits, targets, reduction='none')",
    "order of the batch": "return (nn.functional.cross_entropy(logits, targets, reduction='none')"
    " * torch.arange(len(targets))).mean()",
    "mean over the batch": "return nn.functional.cross_entropy(logits, targets, reduction='sum')",
    "finite gradients": "return -logits.softmax(-1).gather(1, targets[:, None]).log().mean()",
    "lower loss for correct predictions": "return -nn.functional.cross_entropy(logits, targets)",
}


def write(folder: Path, body: str, header: str = HEADER) -> str:
    path = folder / "mine.py"
    path.write_text(f"{header}\n\nclass Mine(Base):\n    {body}\n")
    return f"{path}:Mine"


def failing(reference: str, role: str) -> dict[str, str]:
    return {finding.check: finding.fault for finding in check_module(reference, role) if finding.fault}


@pytest.mark.parametrize("check", [*HEAD_CHECKS, "forward runs"])
def test_a_fault_in_a_fusion_is_found(check: str, tmp_path: Path) -> None:
    assert failing(write(tmp_path, "pass"), "fusion") == {}
    (tmp_path / "bad").mkdir()
    assert check in failing(write(tmp_path / "bad", FAULTY_FUSIONS[check]), "fusion")


@pytest.mark.parametrize("check", LOSS_CHECKS)
def test_a_fault_in_a_loss_is_found(check: str, tmp_path: Path) -> None:
    header = HEADER[: HEADER.index("class Base")] + (
        "class Base(nn.Module):\n    def __init__(self, weights):\n        super().__init__()\n"
    )
    assert check in failing(
        write(tmp_path, f"def forward(self, logits, targets):\n        {FAULTY_LOSSES[check]}", header), "loss"
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_built_in_losses_pass_the_checks(loss: str) -> None:
    from features.lazy_import import import_target

    for weights in (None, torch.tensor([0.5, 1.0, 2.0])):
        module = import_target(LOSSES[loss].target)(
            weights,
            *([torch.tensor([0.7, 0.2, 0.1])] if LOSSES[loss].priors else []),
            *(1.5 if o == "gamma" else 0.1 for o in LOSSES[loss].options),
        )
        assert {name: check(module) for name, check in LOSS_CHECKS.items()} == dict.fromkeys(LOSS_CHECKS)


def test_a_pooling_that_averages_the_padding_is_found(tmp_path: Path) -> None:
    header = HEADER[: HEADER.index("class Base")] + (
        "class Base(nn.Module):\n    def __init__(self, dim):\n        super().__init__()\n"
    )
    good = "def forward(self, x):\n        return segment_mean(x)"
    assert failing(write(tmp_path, good, header), "pooling") == {}
    (tmp_path / "bad").mkdir()
    bad = "def forward(self, x):\n        return x.pad().mean(1)"
    assert {"batch = alone", "length 0 and 1"} <= failing(write(tmp_path / "bad", bad, header), "pooling").keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Mine(", "mine.py:1: SyntaxError"),
        ("\nimport nothing_of_the_kind", "mine.py:2: ModuleNotFoundError"),
        ("Mine = 3", "must hold a class Mine, a torch.nn.Module, found 3"),
        (
            "from torch import nn\nclass Mine(nn.Module):\n    streams = 'text'",
            "streams of Mine must be a tuple of names",
        ),
        ("from torch import nn\nclass Mine(nn.Module):\n    outputs = ()", "must not be empty"),
        ("from torch import nn\nclass Mine(nn.Module):\n    options = ('block',)", "found ('block',)"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_a_usage_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        check_module(f"{tmp_path / 'mine.py'}:Mine", "fusion")
    with pytest.raises(UsageError, match="cannot be read"):
        check_module(f"{tmp_path / 'other.py'}:Mine", "fusion")


def test_an_error_in_a_custom_module_names_its_line(tmp_path: Path) -> None:
    reference = write(tmp_path, "def forward(self, streams):\n        return [streams['txt']]")
    line = (tmp_path / "mine.py").read_text().splitlines().index("        return [streams['txt']]") + 1
    assert failing(reference, "fusion") == {"forward runs": f"{tmp_path / 'mine.py'}:{line}: KeyError: 'txt'"}


def docs_example() -> str:
    (block,) = re.findall(r"```python\n(# my_fusion\.py\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return str(block)


def test_the_example_of_a_fusion_in_the_docs_passes_and_is_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_fusion.py").write_text(docs_example())
    assert len([line for line in docs_example().splitlines() if line.strip()]) <= 20
    assert mervn(["check-module", f"{tmp_path / 'my_fusion.py'}:Gated", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert [entry["check"] for entry in found] == ["forward runs", *HEAD_CHECKS]


@pytest.fixture
def custom(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_fusion.py").write_text(docs_example())
    (tmp_path / "mine" / "other.py").write_text(
        "from torch import nn\nfrom features.ragged import segment_mean\n\n"
        "class Mean(nn.Module):\n    def __init__(self, dim):\n        super().__init__()\n"
        "    def forward(self, x):\n        return segment_mean(x)\n\n"
        "class Smooth(nn.Module):\n    options = ('smoothing',)\n"
        "    def __init__(self, weights, smoothing):\n        super().__init__()\n"
        "        self.loss = nn.CrossEntropyLoss(weights, label_smoothing=smoothing)\n"
        "    def forward(self, logits, targets):\n        return self.loss(logits, targets)\n"
    )
    folder = tmp_path / "mine"
    names = {"fusion": "my_fusion.py:Gated", "pooling": "other.py:Mean", "loss": "other.py:Smooth"}
    return {role: f"{folder / name}" for role, name in names.items()}


def test_a_run_copies_custom_modules_and_executes_them_only_if_trusted(
    data: Path, tmp_path: Path, custom: dict[str, Any]
) -> None:
    result = train(data, tmp_path / "run", **custom)
    modules = read_config(result.path).inputs["modules"]
    assert modules["fusion"]["class"] == "Gated" and len(modules["loss"]["sha256"]) == 64
    assert (result.path / "modules" / "fusion.py").read_text() == docs_example()
    for path in (tmp_path / "mine").iterdir():
        path.unlink()  # the run needs only its copies
    with pytest.raises(UsageError, match="Review it, then pass --trust-code"):
        evaluate(result.path, EvaluateOptions(split="valid"))
    found = evaluate(result.path, EvaluateOptions(split="valid", trust_code=True))
    assert found["valid"]["macro_f1"] == result.metrics["valid"]["macro_f1"]
    with (result.path / "modules" / "fusion.py").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match="edited since"):
        load_head(result.path, read_config(result.path), trust_code=True)


def test_custom_copies_of_built_in_modules_train_to_the_same_numbers(
    data: Path, tmp_path: Path, custom: dict[str, Any]
) -> None:
    copies = {"pooling": custom["pooling"], "loss": custom["loss"]}
    found = outcome(train(data, tmp_path / "custom", **copies).path)
    expected = outcome(train(data, tmp_path / "built-in", pooling="mean", loss="label_smoothing").path)
    assert found == expected


def test_an_edited_module_is_another_configuration(data: Path, tmp_path: Path, custom: dict[str, Any]) -> None:
    train(data, tmp_path / "run", fusion=custom["fusion"])
    again = train(data, tmp_path / "run", fusion=custom["fusion"])
    assert not again.trained
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "my_fusion.py"
    path = Path(custom["fusion"].rpartition(":")[0])
    moved.write_bytes(path.read_bytes())
    assert not train(data, tmp_path / "run", fusion=f"{moved}:Gated").trained  # only the content matters, not the path
    path.write_text(path.read_text() + "\n# changed\n")
    with pytest.raises(UsageError, match="another configuration.*\n.*modules"):
        train(data, tmp_path / "run", fusion=custom["fusion"])
    history = read_jsonl(tmp_path / "run" / "history.jsonl")
    assert len(history) == SMALL["epochs"]


def test_a_module_edited_during_a_series_does_not_change_its_later_runs(
    data: Path, tmp_path: Path, custom: dict[str, Any]
) -> None:
    """Regression test: the file was read again for each run, so the next seed or fold was refused."""
    resolved = resolve_head_options(TrainHeadOptions(**SMALL, fusion=custom["fusion"]))
    opened = open_stored_data(resolved, data, SILENT)
    path = Path(custom["fusion"].rpartition(":")[0])
    original = path.read_text()
    for seed in (0, 1):
        run = tmp_path / f"seed-{seed}"
        train_on(opened, resolved.with_options(seed=seed, output=run), SILENT)
        assert (run / "modules" / "fusion.py").read_text() == original
        path.write_text("raise RuntimeError('edited')\n")


def test_the_name_of_a_run_has_no_folders_in_it(data: Path, tmp_path: Path, custom: dict[str, Any]) -> None:
    config = read_config(train(data, tmp_path / "run", fusion=custom["fusion"]).path)
    streams = open_streams(TrainHeadOptions(), data, ("text", "audio"))
    name = default_folder(config, {key: stream.encoder for key, stream in streams.items()}).name
    assert name.startswith("data-fourier2vec+hashed_ngrams-my_fusion.py-Gated-attn-")


def test_an_unused_modality_is_named_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEADER + "class Mine(Base):\n    def forward(self, streams):\n        return [streams['audio']]\n")
    faults = [finding.fault for finding in check_module(f"{path}:Mine", "fusion") if finding.fault]
    assert any("does not use text, or detaches it; if it should read only audio" in fault for fault in faults)
    assert all("give the class streams = ('audio',)" in fault for fault in faults if "no gradient" in fault)
