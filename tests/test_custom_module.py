"""Custom code in a run: only listed, hashed files below modules/ are loaded, and only with --trust-code."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_train_head import SMALL, made, train

from cli.main import run as mervn
from features.config import OneOf
from mervn.config import TrainHeadOptions
from mervn.model.custom_module import ROLES, saved_modules

__all__ = ["made"]  # fixture
MEAN = """
from pathlib import Path
from torch import nn
from features.ragged import segment_mean

Path({marker!r}).touch()


class Mean(nn.Module):
    def __init__(self, *parts):
        super().__init__()

    def forward(self, x):
        return segment_mean(x)
"""


class Attack:
    """A copy of a run with a config.json to change, and a file that creates a marker when it is executed."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.run = Path(shutil.copytree(run, folder / "run"))
        self.marker = folder / "executed"
        self.code = folder / "evil.py"
        self.code.write_text(MEAN.format(marker=str(self.marker)))
        self.sha256 = hashlib.sha256(self.code.read_bytes()).hexdigest()

    def configure(self, options: dict[str, Any], modules: Any = None) -> None:
        path = self.run / "config.json"
        document = json.loads(path.read_text())
        document["options"] |= options
        if modules is not None:
            document["inputs"]["modules"] = modules
        path.write_text(json.dumps(document))

    def entry(self, **changes: str) -> dict[str, str]:
        return {"file": "evil.py", "class": "Mean", "sha256": self.sha256} | changes

    def place(self) -> Path:
        path = self.run / "modules" / "pooling.py"
        path.parent.mkdir()
        path.write_bytes(self.code.read_bytes())
        return path


@pytest.fixture(scope="module")
def plain(made: Path) -> Path:
    return train(made, made.parent / "plain", pooling="mean", epochs=1).path


@pytest.fixture
def attack(plain: Path, tmp_path: Path) -> Attack:
    return Attack(plain, tmp_path)


def commands(run: Path, output: Path) -> dict[str, list[str]]:
    """Return every command that loads a run."""
    return {
        "evaluate": ["evaluate", str(run), "--split", "valid"],
        "finetune": ["finetune", "--init-head", str(run), "--output", str(output), "--epochs", "1"],
    }


COMMANDS = list(commands(Path(), Path()))


def assert_rejected(attack: Attack, command: str, *flags: str) -> None:
    assert mervn([*commands(attack.run, attack.run.parent / "out")[command], *flags]) in (1, 2)
    assert not attack.marker.exists()


def test_the_roles_are_the_options_that_take_a_class_of_a_file() -> None:
    fields = TrainHeadOptions.model_fields.items()
    roles = set()
    for name, info in fields:
        for constraint in info.metadata:
            if isinstance(constraint, OneOf) and constraint.custom:
                roles.add(name)
    assert roles == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("command", COMMANDS)
def test_code_not_listed_by_the_run_is_never_executed(
    attack: Attack, command: str, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    attack.configure({role: f"{attack.code}:Mean"})
    assert_rejected(attack, command)
    assert_rejected(attack, command, "--trust-code")
    assert f"{role} names the code {attack.code}:Mean, which inputs.modules does not list" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_outside_the_modules_folder_is_never_executed(attack: Attack, command: str) -> None:
    attack.configure({"pooling": f"{attack.code}:Mean"}, {"pooling": attack.entry()})
    assert_rejected(attack, command)
    assert_rejected(attack, command, "--trust-code")


TAMPERED: dict[str, Callable[[Attack], Any]] = {
    "a role with a path outside the run": lambda a: {f"../../{a.code.stem}": a.entry(), "pooling": a.entry()},
    "an option that is not a role": lambda a: {"data": a.entry(), "pooling": a.entry()},
    "a class name that contains another file": lambda a: {"pooling": a.entry(**{"class": f"Mean:{a.code}:Mean"})},
    "a different class than in the option": lambda a: {"pooling": a.entry(**{"class": "nn"})},
    "no hash": lambda a: {"pooling": {"file": "evil.py", "class": "Mean"}},
    "a different hash": lambda a: {"pooling": a.entry(sha256="0" * 64)},
    "an entry that is not an object": lambda a: {"pooling": str(a.code)},
    "a list": lambda a: [a.entry()],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_list_of_modules_is_rejected_even_if_trusted(
    attack: Attack, command: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    attack.place()
    attack.configure({"pooling": f"{attack.code}:Mean"}, TAMPERED[how](attack))
    assert_rejected(attack, command, "--trust-code")
    assert str(attack.run) in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_out_of_the_run_is_rejected(attack: Attack, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    copy = attack.place()
    attack.configure({"pooling": f"{copy}:Mean"}, {"pooling": attack.entry()})
    copy.rename(attack.run.parent / "pooling.py")
    copy.symlink_to(attack.run.parent / "pooling.py")
    assert_rejected(attack, command, "--trust-code")
    assert "must be a file of the run itself, found a link" in capsys.readouterr().err
    shutil.rmtree(copy.parent)
    copy.parent.symlink_to(attack.run.parent)
    assert_rejected(attack, command, "--trust-code")
    assert "must be a file of the run itself, found a link" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_an_edited_or_missing_module_is_rejected(attack: Attack, command: str) -> None:
    copy = attack.place()
    attack.configure({"pooling": f"{copy}:Mean"}, {"pooling": attack.entry()})
    copy.write_text(copy.read_text() + "\n")
    assert_rejected(attack, command, "--trust-code")
    copy.unlink()
    assert_rejected(attack, command, "--trust-code")
    copy.mkdir()
    assert_rejected(attack, command, "--trust-code")


def test_a_listed_module_is_executed_only_if_trusted(attack: Attack) -> None:
    copy = attack.place()
    attack.configure({"pooling": f"{attack.code}:Mean"}, {"pooling": attack.entry()})
    assert_rejected(attack, "evaluate")
    assert mervn([*commands(attack.run, attack.run)["evaluate"], "--trust-code"]) == 0
    assert attack.marker.exists() and copy.exists()  # negative control: the marker works


def test_code_changed_after_its_hash_was_checked_is_not_executed(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression test: the file was read a second time to build the head."""
    copy = attack.place()
    copy.write_text(
        "from features.ragged import segment_mean\nfrom torch import nn\n"
        "class Mean(nn.Module):\n    def __init__(self, *parts):\n        super().__init__()\n"
        "    def forward(self, x):\n        return segment_mean(x)\n"
    )
    sha256 = hashlib.sha256(copy.read_bytes()).hexdigest()
    attack.configure({"pooling": f"{attack.code}:Mean"}, {"pooling": attack.entry(sha256=sha256)})

    def swap(*arguments: Any) -> Any:
        checked = saved_modules(*arguments)
        copy.write_bytes(attack.code.read_bytes())
        return checked

    monkeypatch.setattr("mervn.model.saved_run.saved_modules", swap)
    assert mervn([*commands(attack.run, attack.run)["evaluate"], "--trust-code"]) == 0
    assert not attack.marker.exists() and copy.read_bytes() == attack.code.read_bytes()


def test_finetune_copies_the_trusted_module_of_a_run(attack: Attack) -> None:
    copy = attack.place()
    attack.configure({"pooling": f"{copy}:Mean"}, {"pooling": attack.entry()})
    output = attack.run.parent / "tuned"
    assert mervn([*commands(attack.run, output)["finetune"], "--trust-code"]) == 0
    assert (output / "modules" / "pooling.py").read_bytes() == copy.read_bytes()
    modules = json.loads((output / "config.json").read_text())["inputs"]["modules"]
    assert modules["pooling"]["sha256"] == attack.sha256


def test_an_options_file_cannot_name_code(
    attack: Attack,
    made: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    attack.configure({"pooling": f"{attack.code}:Mean"})
    base = ["train-head", "--data", str(made), "--output", str(attack.run.parent / "out")]
    assert mervn([*base, "--config", str(attack.run / "config.json")]) == 2
    assert f"names the code {attack.code}:Mean; review it, then pass --pooling" in capsys.readouterr().err
    assert not attack.marker.exists()
    given = ["--config", str(attack.run / "config.json"), "--pooling", f"{attack.code}:Mean"]
    assert mervn([*base, *given]) == 0 and attack.marker.exists()


def test_files_cannot_declare_code_as_trusted(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression test: either file can come with another person's run, whose code then ran without --trust-code."""
    copy = attack.place()
    attack.configure({"pooling": f"{copy}:Mean"}, {"pooling": attack.entry()})
    options = {"init_head": str(attack.run), "trust_code": True, "epochs": 1, "output": str(tmp_path / "out")}
    (tmp_path / "theirs.json").write_text(json.dumps({"options": options}))
    assert mervn(["finetune", "--config", str(tmp_path / "theirs.json")]) == 2
    assert "theirs.json must not set trust_code; review the code of the run, then pass --trust-code" in (
        capsys.readouterr().err
    )
    monkeypatch.chdir(tmp_path)
    for value in ("true", "1", '"yes"'):
        (tmp_path / "mervn.toml").write_text(f"[evaluate]\ntrust-code = {value}\n")
        assert_rejected(attack, "evaluate")
    (tmp_path / "mervn.toml").write_text(f'[train-head]\npooling = "{attack.code}:Mean"\n')
    assert mervn(["train-head", "--output", str(tmp_path / "out")]) == 2
    assert "names the code" in capsys.readouterr().err
    assert not attack.marker.exists()


def test_training_again_in_a_tampered_run_does_not_execute_its_code(attack: Attack, made: Path) -> None:
    attack.configure({"pooling": f"{attack.code}:Mean"})
    flags = [
        part for key, value in SMALL.items() if key != "mlp" for part in (f"--{key.replace('_', '-')}", str(value))
    ]
    assert mervn(["train-head", "--data", str(made), "--output", str(attack.run), *flags]) == 2
    assert not attack.marker.exists()
