"""The check before a training: printed in one block, saved beside the run, and never in its way."""

import json
from pathlib import Path

import pytest
from test_train_head import SMALL, data, made, train
from tiny import Recorder, read_jsonl, write_manifest

from features.audit.check import check_data
from mervn.config import TrainHeadOptions
from mervn.data.data_check import check_training_data
from mervn.data.saved_check import CHECK_FILE
from mervn.run_folder import read_config
from mervn.training.train_head import train_head

__all__ = ["data", "made"]  # fixtures
SHORT = {**SMALL, "epochs": 1}


def test_findings_are_printed_once_and_saved_and_change_no_identity(data: Path, tmp_path: Path) -> None:
    lines = read_jsonl(data / "valid.jsonl")
    shared = read_jsonl(data / "train.jsonl")[0]["speaker_id"]
    write_manifest(data / "valid.jsonl", [{**line, "speaker_id": shared} for line in lines])
    recorder = Recorder()
    options = TrainHeadOptions(**{**SHORT, "output": tmp_path / "run"})
    run = train_head(options, data, recorder).path
    (block,) = [line for line in recorder.lines if line.startswith("the data of this training has")]
    assert "\n  error: speaker_overlap: 1 speaker in several splits" in block
    saved = json.loads((run / CHECK_FILE).read_text("utf-8"))
    assert {"speaker_overlap", "few_speakers"} <= {finding["id"] for finding in saved["findings"]}
    assert saved["splits"].keys() == {"train", "valid"} and saved["measured"] == 0
    # after `mervn check`, the facts of the audio are known too; the run is still the same
    check_data(data, data / "stores")
    again = train_head(options, data, recorder)
    assert not again.trained
    repeated = train(data, tmp_path / "again", epochs=1)
    assert read_config(repeated.path).hash == read_config(run).hash
    known = json.loads((repeated.path / CHECK_FILE).read_text("utf-8"))
    assert known["measured"] == sum(known["splits"].values())
    assert (repeated.path / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_fault_of_the_check_does_not_stop_a_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("mervn.data.data_check.quick_check", fail)
    recorder = Recorder()
    assert check_training_data({}, data, None, recorder) is None
    assert recorder.lines == ["the data could not be checked, training continues: ZeroDivisionError: a fault"]
    run = train(data, tmp_path / "run", epochs=1).path
    assert (run / "metrics.json").is_file() and not (run / CHECK_FILE).exists()
