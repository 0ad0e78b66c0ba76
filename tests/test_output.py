"""What a user sees: help in groups, lines beside progress bars, the epochs, the warning about a small valid split."""

import io
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from test_train_head import data, made
from tiny import make_data, make_whisper

from cli import epochs
from cli.epochs import EpochLog, half_width
from cli.main import COMMANDS, run
from cli.output import Output, echo
from features.config import ADVANCED, Group, Options
from features.lazy_import import import_target
from mervn.config import FinetuneOptions, PretrainOptions, TrainHeadOptions

__all__ = ["data", "made"]  # fixtures
Captured = pytest.CaptureFixture[str]
MODELS: list[type[Options]] = [import_target(spec.options) for spec in COMMANDS.values()]


class Terminal(io.StringIO):
    """A stderr that says it is a terminal, and the screen that one would show."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines, line, column = [""], 0, 0
        for token in re.findall(r"\x1b\[A|[^\x1b]", self.getvalue()):
            if token == "\x1b[A":
                line -= 1
            elif token == "\n":
                line, column = line + 1, 0
                lines += [""] * (line >= len(lines))
            elif token == "\r":
                column = 0
            else:
                lines[line] = lines[line][:column].ljust(column) + token + lines[line][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines if line.strip()]


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal; no fixture, for pytest sets stderr again after these."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


def shown(command: str, flag: str, capsys: Captured) -> str:
    assert run([*command.split(" "), flag]) == 0
    return capsys.readouterr().out


def flags_in(text: str) -> set[str]:
    return {name.replace("[no-]", "") for name in re.findall(r"^  (?:-h, )?(--\S+)", text, re.MULTILINE)}


def test_the_help_of_train_head_fits_on_a_screen(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = shown("train-head", "--help", capsys)
    assert len(text.splitlines()) <= 48 and max(map(len, text.splitlines())) <= 100
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == [group.value for group in Group]
    assert "--help-all" in text and "--fusion" in text and "--rnn-hidden" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_all_shows_every_option_and_help_the_common_ones(command: str, capsys: Captured) -> None:
    model: type[Options] = import_target(COMMANDS[command].options)
    fields = model.model_fields
    names = {f"--{name.replace('_', '-')}": name for name in fields}
    advanced = {flag for flag, name in names.items() if ADVANCED in model.marks(name)}
    common = flags_in(shown(command, "--help", capsys))
    assert common & names.keys() == names.keys() - advanced
    assert ("--help-all" in common) == bool(advanced)
    assert names.keys() <= flags_in(shown(command, "--help-all", capsys))
    assert flags_in(shown(command, "--help", capsys)) == common  # as before


@pytest.mark.parametrize("group", [[], ["store"]])
def test_groups_have_help_all_as_their_commands_have_it(group: list[str], capsys: Captured) -> None:
    texts = []
    for flag in ("--help", "--help-all"):
        assert run([*group, flag]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and "Commands:" in texts[0]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_option_declares_its_group_and_a_description(model: type[Options]) -> None:
    for name, info in model.model_fields.items():
        assert any(isinstance(mark, Group) for mark in model.marks(name)), name
        assert info.description and info.description.endswith("."), name


def test_options_outside_of_a_hash_are_those_that_cannot_change_a_result() -> None:
    places = {"data", "audio_root", "features_dir", "output", "fold_file"}
    encoders = {"audio_encoder", "text_encoder"}  # the stores, or the weights, are in the inputs
    ways = {"device", "threads", "force", "checkpoint_every", "checkpoint_steps", "keep_checkpoints", "tensorboard"}
    ways |= {"report"}
    reading = {"audio_store", "text_store", "memory_gb", "verify_inputs", "num_seeds"}
    assert TrainHeadOptions.not_in_hash() == places | encoders | ways | reading
    assert FinetuneOptions.not_in_hash() == places | encoders | ways | {"init_head", "workers", "trust_code"}
    assert PretrainOptions.not_in_hash() == {
        "data", "audio_root", "output", "device", "threads", "force", "checkpoint_every"
    }  # fmt: skip
    assert {"epochs", "learning_rate", "seed"} & FinetuneOptions.not_in_hash() == set()


def test_lines_and_bars_do_not_garble_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    output = Output(as_json=True)
    first = output.progress(10, 0, "first")
    second = output.progress(20, 0, "second")
    for step in range(5):
        first.update(1)
        second.update(2)
        output.say(f"line {step}")
        output.result(f"result {step}")
        first.refresh()
        second.refresh()
    lines = terminal.screen()
    said = [line for step in range(5) for line in (f"line {step}", f"result {step}")]
    assert lines[:10] == said
    assert len(lines) == 12 and lines[10].startswith("first:") and lines[11].startswith("second:")
    click.echo("a line that does not know of the bars", err=True)  # the check can fail
    assert "a line that does not know of the bars" not in terminal.screen()
    second.close()
    first.close()


def test_bars_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    bar = Output(as_json=False).progress(10, 0, "work")
    bar.update(10)
    bar.close()
    echo("done")
    assert terminal.screen() == ["done"]


def test_progress_in_a_log_is_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("cli.output.QUIET_INTERVAL_S", 0.0)
    bar = Output(as_json=False).progress(4, 1, "work")
    bar.update(1)
    bar.update(2)
    bar.close()
    error = capsys.readouterr().err
    assert "\r" not in error
    assert re.search(r"^work: +100% +4/4 .*utterances", error, re.MULTILINE)


def entry(epoch: int, accuracy: float = 0.5, best: int = 1, seconds: float = 2.0) -> dict[str, Any]:
    valid = {"macro_f1": accuracy, "accuracy": accuracy, "nll": 1.0}
    return {"epoch": epoch, "train_loss": 1.25, "valid": valid, "best_epoch": best, "seconds": seconds}


def test_an_epoch_is_a_line_with_its_scores_and_the_time_left(capsys: Captured) -> None:
    output = Output(as_json=False)
    output.epochs = EpochLog(10)
    for one in (entry(0, best=0, seconds=90), entry(1), entry(2, 0.75, best=2, seconds=4)):
        output.epoch(one)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 0, initial model: valid macro-F1 0.5000 (best: epoch 0), 90 s",
        "epoch 1/10: loss 1.2500, valid macro-F1 0.5000 (best: epoch 1), 2.00 s, at most 18 s left",
        "epoch 2/10: loss 1.2500, valid macro-F1 0.7500 (best: epoch 2), 4.00 s, at most 24 s left",
    ]
    assert EpochLog(1).line(entry(1)) == "epoch 1/1: loss 1.2500, valid macro-F1 0.5000 (best: epoch 1), 2.00 s"
    assert output.epochs.summary() == "2 epochs, 3.00 s per epoch"
    output.epoch(entry(1, seconds=7200))  # the next seed
    assert output.epochs.summary() == "1 epoch, 2.0 h per epoch"


def test_the_time_of_a_training_is_estimated_once_after_some_batches(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    now = [0.0]
    monkeypatch.setattr(epochs.time, "monotonic", lambda: now[0])
    output = Output(as_json=False)
    output.epochs = EpochLog(10)
    output.epoch(entry(0, best=0, seconds=30))
    capsys.readouterr()
    bar = output.progress(100, 0, "epoch 1")
    for _ in range(20):  # 2 utterances per second
        now[0] += 1
        bar.update(2)
    bar.close()
    output.progress(100, 0, "epoch 2").close()
    assert capsys.readouterr().err == "estimate: 80 s per epoch, at most 13.3 min in all\n"


def test_a_valid_split_that_cannot_tell_the_epochs_apart_is_a_warning() -> None:
    assert half_width(0.6, 25) == pytest.approx(0.18, abs=0.005)  # Wilson: 0.41 to 0.77
    log = EpochLog(37)
    for epoch in range(1, 38):
        log.line(entry(epoch, accuracy=0.6 if epoch == 5 else 0.5 - 0.2 * (epoch > 30), best=5 if epoch > 4 else 1))
    warning = log.small_valid_warning({"n": 25})
    assert warning is not None
    assert "valid has only 25 utterances" in warning and "± 0.18" in warning and "29 of the 36 other epochs" in warning
    assert log.small_valid_warning({"n": 10_000}) is None


def test_train_head_ends_with_commands_to_paste(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(data.parent)
    command = ["train-head", "--data", str(data), "--fusion", "audio", "--epochs", "2", "--dim", "16", "--mlp", "8"]
    assert run([*command, "--output", "a run"]) == 0
    error = capsys.readouterr().err
    evaluate, again = re.findall(r"^  mervn (.*)$", error, re.MULTILINE)
    assert evaluate == "evaluate 'a run' --split test"
    assert again == "train-head --config 'a run/config.json' --seed 1"
    assert run(shlex.split(evaluate)) == 0
    assert run(shlex.split(again)) == 0
    assert "runs" in capsys.readouterr().out


def test_stores_that_match_are_listed_each_with_the_option_that_selects_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data")
    model = make_whisper(tmp_path / "tiny")
    for flags in (["@1"], ["@1", "--whisper-mode", "trimmed"], ["@2"]):
        assert run(["extract", "--audio-encoder", f"whisper={model}{flags[0]}", *flags[1:]]) == 0
    assert run(["layers", "--audio-encoder", f"whisper={model}"]) == 0
    capsys.readouterr()
    assert run(["store", "list"]) == 0
    listed = [line.split()[1:4] for line in capsys.readouterr().out.splitlines()]
    assert sorted(listed[1:]) == [
        ["1", "30s", "42"],
        ["1", "trimmed", "42"],
        ["2", "30s", "42"],
        ["means", "of", "all"],
    ]
    command = ["train-head", "--fusion", "audio", "--epochs", "1", "--dim", "16", "--mlp", "8"]
    assert run(command) == 2
    error = capsys.readouterr().err
    options = re.findall(r"^  (--audio-\S+ \S+) +(\S+) +(\S+) +42 ", error, re.MULTILINE)
    assert sorted(cells[1:] for cells in options) == [("1", "30s"), ("1", "trimmed"), ("2", "30s")]
    for option, layer, mode in options:
        assert run([*command, *option.split(" "), "--output", f"{layer}-{mode}"]) == 0
