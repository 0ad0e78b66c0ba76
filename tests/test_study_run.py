"""Studies from end to end: cells in processes, kills and failures, missing features, and test read once."""

import csv
import json
import os
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import soundfile
from test_extract import run as extract
from tiny import Recorder, make_data, read_jsonl, write_manifest
from tiny_extraction import small_encoders, spoil
from warm_process import WARM_SUBPROCESS, WarmProcess

from cli.main import run as mervn
from features.atomic_files import write_json
from features.errors import InputError, UsageError
from features.progress import SILENT, Reporter
from features.store.reader import FeatureStore
from mervn.config import AblateOptions, EvaluateOptions
from mervn.evaluation.evaluate import evaluate
from mervn.report.study_page import write_study_report
from mervn.study import search
from mervn.study.ablate import StudyResult, ablate
from mervn.study.cell_worker import CellTrainer
from mervn.study.study_run import OneProcess

BASE = "[base]\ndim = 8\nheads = 2\nmlp = [8]\nepochs = 2\nbatch-size = 8\n"
GRID = f'baselines = false\nseeds = 2\n{BASE}[rows]\nfusion = ["xattn", "late", "text"]\n'
CODE = "import sys; from cli.main import main; main()"
WARM_CODE = "from warm_process import start_studies_warm; start_studies_warm(); " + CODE
"""A study whose processes start in milliseconds; `CODE` starts them as users do."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder without stores, with six speakers in each split."""
    data = make_data(tmp_path_factory.mktemp("corpus") / "data", {"train": 24, "valid": 12, "test": 12})
    for split in ("train", "valid", "test"):
        lines = read_jsonl(data / f"{split}.jsonl")
        for i, line in enumerate(lines):
            line["speaker_id"] = f"{split}-speaker-{i // 2 % 6}"
        write_manifest(data / f"{split}.jsonl", lines)
    return data


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    data = Path(shutil.copytree(corpus, folder / "data", copy_function=shutil.copy2))
    for selector in small_encoders(folder):
        extract(data, selector)
    return data


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data", copy_function=shutil.copy2))


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave report.html out, which takes longer than the cells; test_tables and test_study_page are about it."""
    monkeypatch.setattr("mervn.study.ablate.write_study_report", lambda _: None)


def study(folder: Path, data: Path, text: str = GRID, reporter: Reporter = SILENT, **options: Any) -> StudyResult:
    grid = folder / "GRID.toml"
    grid.write_text(text)
    given = {"device": "cpu", "jobs": 1, "output": folder / "study", **options}
    return ablate(grid, AblateOptions(**given), data, reporter)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def times(output: Path) -> dict[str, int]:
    """Return when each run was completed."""
    return {path.parent.name: path.stat().st_mtime_ns for path in output.glob("runs/*/metrics.json")}


def test_a_study_has_the_scores_of_its_runs_and_never_opens_test(data: Path, tmp_path: Path) -> None:
    (data / "test.jsonl").unlink()
    recorder = Recorder()
    result = study(tmp_path, data, reporter=recorder)
    assert (result.cells, result.waiting) == (6, 6)
    table, cells = read_csv(result.output / "table.csv"), read_csv(result.output / "cells.csv")
    assert [row["fusion"] for row in table] == ["xattn", "late", "text"]
    for row in table:
        scores = []
        for cell in cells:
            if cell["fusion"] == row["fusion"]:
                metrics = json.loads((result.output / cell["run"] / "metrics.json").read_text())
                scores.append(metrics["valid"]["macro_f1"])
        assert float(row["macro_f1_mean"]) == pytest.approx(statistics.mean(scores), abs=1e-6)
        assert float(row["macro_f1_std"]) == pytest.approx(statistics.stdev(scores), abs=1e-6)
        assert (row["split"], row["groups"], row["unit"], row["n"]) == ("valid", "6", "speaker_id", "12")
    assert [bool(row["p_holm"]) for row in table] == [False, True, True]
    said = "\n".join(recorder.lines)
    assert "3 rows, 2 seeds, no folds: 6 cells" in said and "MB to write" in said
    assert "estimate from 2 cells" in said
    for name in ("table.md", "table.tex", "effects.csv", "state.json"):
        assert (result.output / name).is_file()


def test_more_seeds_and_rows_train_only_new_cells(data: Path, tmp_path: Path) -> None:
    first = study(tmp_path, data)
    before = times(first.output)
    again = study(tmp_path, data)
    assert again.waiting == 0 and times(first.output) == before
    more = GRID.replace("seeds = 2", "seeds = 3").replace('"text"]', '"text", "audio"]')
    result = study(tmp_path, data, more)
    assert (result.cells, result.waiting) == (12, 6)
    assert {name: times(first.output)[name] for name in before} == before


def test_test_is_read_once_for_the_chosen_cells_only(data: Path, tmp_path: Path) -> None:
    text = GRID + "[tune]\nlearning-rate = [1e-5, 1e-2]\n"
    result = study(tmp_path, data, text)
    assert not (data / "test_access.jsonl").exists()
    assert result.cells == 12
    tested = study(tmp_path, data, text, test=True)
    looks = read_jsonl(data / "test_access.jsonl")
    cells = read_csv(tested.output / "cells.csv")
    chosen = [cell for cell in cells if cell["chosen"] == "true"]
    assert len(looks) == len(chosen) == 6
    assert {Path(look["run"]).name for look in looks} == {Path(cell["run"]).name for cell in chosen}
    assert [bool(cell["test_macro_f1"]) for cell in cells] == [cell["chosen"] == "true" for cell in cells]
    table = read_csv(tested.output / "table.csv")
    assert {row["split"] for row in table} == {"test"}
    best = max(read_csv(result.output / "cells.csv"), key=lambda cell: float(cell["valid_macro_f1"]))
    assert best["chosen"] == "true"
    study(tmp_path, data, text, test=True)
    assert len(read_jsonl(data / "test_access.jsonl")) == 6


def test_the_baselines_are_cells_of_the_study_and_end_its_table(data: Path, tmp_path: Path) -> None:
    text = GRID.replace("baselines = false\n", "").replace("heads = 2\n", "").replace("epochs = 2", "epochs = 1")
    text = text.replace('"xattn", "late", "text"]', '"text", "linear"]').replace("[base]", "[base]\npooling = 'cls'")
    planned = study(tmp_path, data, text, dry_run=True)
    assert (planned.cells, planned.waiting) == (4, 4)  # text with two seeds, linear and linear_text with one
    result = study(tmp_path, data, text, test=True)
    assert result.waiting == 4 and study(tmp_path, data, text, test=True).waiting == 0
    table, cells = read_csv(result.output / "table.csv"), read_csv(result.output / "cells.csv")
    assert [(row["fusion"], row["group"], row["kind"], row["seeds"]) for row in table] == [
        ("text", "rows", "head", "2"), ("linear", "rows", "linear", "1"), ("linear_text", "baselines", "linear", "1"),
        ("majority", "baselines", "majority", ""),
    ]  # fmt: skip
    assert {row["split"] for row in table} == {"test"} and len(read_jsonl(data / "test_access.jsonl")) == len(cells)
    assert [bool(row["against_linear"]) for row in table] == [True, False, False, False]
    difference = float(table[0]["macro_f1_mean"]) - float(table[2]["macro_f1_mean"])  # not to linear, which hears too
    assert float(table[0]["linear_difference"]) == pytest.approx(difference, abs=2e-6)
    # the most frequent label of train, which need not be that of test
    train = Counter(line["emotion"] for line in read_jsonl(data / "train.jsonl"))
    answer = min(train, key=lambda label: (-train[label], label))
    truth = [line["emotion"] for line in read_jsonl(data / "test.jsonl")]
    assert float(table[-1]["accuracy_mean"]) == pytest.approx(truth.count(answer) / len(truth), abs=1e-6)
    page = write_study_report(result.output).read_text()
    assert "Baselines are at the end" in page and ">linear_text<" in page


def test_folds_are_pooled(data: Path, tmp_path: Path) -> None:
    ids = [line["utterance_id"] for split in ("train", "valid", "test") for line in read_jsonl(data / f"{split}.jsonl")]
    folds = []
    for k in range(2):
        valid, test = ids[k * 12 : k * 12 + 12], ids[24 + k * 12 : 36 + k * 12]
        train = [name for name in ids if name not in valid and name not in test]
        folds.append({"train": train, "valid": valid, "test": test})
    write_json(data / "folds-2.json", {"schema": 1, "folds": folds})
    text = f'folds = "all"\n{GRID}'.replace('"xattn", ', "").replace("heads = 2\n", "")
    result = study(tmp_path, data, text, test=True)
    table = read_csv(result.output / "table.csv")
    assert result.cells == 8 and [row["n"] for row in table] == ["24", "24"]
    assert {row["split"] for row in table} == {"test"}
    assert len(read_jsonl(data / "test_access.jsonl")) == 8


def test_test_is_scored_again_if_its_inputs_or_the_weights_have_changed(data: Path, tmp_path: Path) -> None:
    text = GRID.replace('"xattn", ', "").replace("heads = 2\n", "")
    result = study(tmp_path, data, text, test=True)
    (run, *_) = sorted((result.output / "runs").iterdir())
    files = {path: path.read_bytes() for path in result.output.rglob("*test*.json*")}
    times = {path: path.stat().st_mtime_ns for path in files}
    study(tmp_path, data, text, test=True)
    assert {path: path.stat().st_mtime_ns for path in files} == times  # nothing was scored again
    for path in data.glob("test-*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[::-1], rate)
    with pytest.raises(InputError, match="audio features of 12 utterances"):  # older than the audio
        study(tmp_path, data, text, test=True)
    assert {path: path.read_bytes() for path in files} == files
    extract(data, small_encoders(tmp_path)[0], update=True)
    study(tmp_path, data, text, test=True)
    expected = evaluate(run, EvaluateOptions(split="test"))
    scores = json.loads((run / "metrics-test.json").read_text())
    before = json.loads(files[run / "metrics-test.json"])
    assert scores["test"] == expected["test"] and scores["inputs_sha256"] != before["inputs_sha256"]
    (run / "predictions-test.jsonl").unlink()
    study(tmp_path, data, text, test=True)
    assert (run / "predictions-test.jsonl").is_file()


def test_weights_that_no_training_of_the_study_wrote_are_refused(data: Path, tmp_path: Path) -> None:
    text = GRID.replace('"xattn", ', "").replace("heads = 2\n", "")
    result = study(tmp_path, data, text)
    table = (result.output / "table.csv").read_text()
    first, second, *_ = sorted((result.output / "runs").iterdir())
    shutil.copy(second / "model.safetensors", first / "model.safetensors")
    evaluate(first, EvaluateOptions(split="valid"))
    with pytest.raises(InputError, match="must hold the weights that the training wrote, but they have changed"):
        study(tmp_path, data, text)
    shutil.rmtree(first)
    study(tmp_path, data, text)
    assert (result.output / "table.csv").read_text() == table


def wait_for_cells(process: WarmProcess, output: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(times(output)) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.finish()
        time.sleep(0.005)


def wait_for_the_end_of_the_group(leader: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.01)


def test_after_kill_9_of_all_processes_the_tables_have_the_same_bytes(data: Path, tmp_path: Path) -> None:
    text = GRID.replace("seeds = 2", "seeds = 4").replace("epochs = 2", "epochs = 6")
    (tmp_path / "whole").mkdir()
    undisturbed = study(tmp_path / "whole", data, text)
    grid, output = tmp_path / "whole" / "GRID.toml", tmp_path / "killed"
    arguments = ["ablate", str(grid), "--data", str(data), "--output", str(output), "--device", "cpu"]
    kills = 0
    for jobs, kill in (("2", os.killpg), ("2", os.kill)):
        process = WarmProcess(WARM_CODE, [*arguments, "--jobs", jobs])
        wait_for_cells(process, output, len(times(output)) + 1)
        kill(process.pid, signal.SIGKILL)
        process.finish()
        wait_for_the_end_of_the_group(process.pid)  # processes that lost their parent end themselves
        kills += len(times(output)) < undisturbed.cells
    assert kills == 2  # or the study was complete before it was killed
    assert not (output / "table.csv").exists()
    before = times(output)
    resumed = study(tmp_path, data, text, output=output)
    assert resumed.waiting == undisturbed.cells - len(before)
    assert {name: times(output)[name] for name in before} == before
    for name in ("table.csv", "effects.csv"):
        assert (output / name).read_bytes() == (undisturbed.output / name).read_bytes()


SEARCHED = f'baselines = false\nseeds = 1\n{BASE}[rows]\nfusion = ["late", "text"]\n[tune]\n'.replace(
    "epochs = 2", "epochs = 1"
)
SEARCHED = SEARCHED.replace("heads = 2\n", "") + "learning-rate = { low = 1e-4, high = 1e-1, log = true }\n"


def test_a_search_is_the_same_after_a_crash_and_in_another_order_of_the_cells(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BATCH", 2)
    monkeypatch.setattr(search, "RANDOM_TRIALS", 2)
    (data / "test.jsonl").unlink()  # a search never reads test
    recorder = Recorder()
    whole = study(tmp_path, data, SEARCHED, recorder, trials=4)
    said = "\n".join(recorder.lines)
    assert "2 rows, at most 4 trials each, 1 seed, no folds: at most 8 cells" in said
    assert "at most 8 cells to train: " in said and "MB to write" in said
    assert "estimate from 2 cells" in said and "left for at most 6 cells" in said
    cells = read_csv(whole.output / "cells.csv")
    assert whole.cells == whole.waiting == len(cells) == len(times(whole.output)) == 8
    for row in read_csv(whole.output / "table.csv"):
        scores = {c["tune learning-rate"]: float(c["valid_macro_f1"]) for c in cells if c["fusion"] == row["fusion"]}
        assert float(row["macro_f1_mean"]) == max(scores.values())
        assert scores[row["tuned"].removeprefix("learning-rate=")] == max(scores.values())
    before = times(whole.output)
    crashed = tmp_path / "crashed"
    shutil.copytree(whole.output, crashed)
    for name in sorted(before)[::3]:
        (crashed / "runs" / name / "metrics.json").unlink()
    (crashed / "table.csv").unlink()
    resumed = study(tmp_path, data, SEARCHED, trials=4, output=crashed)
    assert resumed.waiting == len(sorted(before)[::3])

    run = OneProcess.run
    monkeypatch.setattr(OneProcess, "run", lambda self, cells, report: run(self, cells[::-1], report))
    fewer = study(tmp_path, data, SEARCHED, trials=3, output=tmp_path / "reversed")
    assert fewer.waiting == 6
    more = study(tmp_path, data, SEARCHED, trials=4, output=fewer.output)
    assert more.waiting == 2 and set(times(fewer.output)) == set(before)
    for output in (crashed, fewer.output):
        for name in ("table.csv", "effects.csv"):
            assert (output / name).read_bytes() == (whole.output / name).read_bytes()


def test_a_search_trains_the_baselines_once(data: Path, tmp_path: Path) -> None:
    text = SEARCHED.replace("baselines = false\n", "")
    whole = study(tmp_path, data, text, trials=2)
    assert whole.cells == whole.waiting == 2 * 2 + 2  # two trials of each row; linear, and linear_text
    table = read_csv(whole.output / "table.csv")
    assert [(row["fusion"], bool(row["against_linear"])) for row in table] == [
        ("late", True), ("text", True), ("linear", False), ("linear_text", False), ("majority", False),
    ]  # fmt: skip
    assert study(tmp_path, data, text, trials=2).waiting == 0


def test_a_trial_that_failed_is_shown_and_trained_again_with_retry(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BATCH", 2)
    whole = study(tmp_path, data, SEARCHED, trials=3)
    name = min(times(whole.output))
    with pytest.MonkeyPatch.context() as patch:
        break_one(patch, name)
        failed = study(tmp_path, data, SEARCHED, trials=3, output=tmp_path / "failed")
    assert failed.tables is not None and failed.tables.failed == {name: "RuntimeError: planted"}
    again = study(tmp_path, data, SEARCHED, trials=3, output=failed.output)
    assert again.waiting == 0 and again.tables is not None and list(again.tables.failed) == [name]
    retried = study(tmp_path, data, SEARCHED, trials=3, output=failed.output, retry=True)
    assert retried.waiting == 1 and retried.tables is not None and not retried.tables.failed
    assert (failed.output / "table.csv").read_bytes() == (whole.output / "table.csv").read_bytes()


def test_another_version_of_optuna_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SEARCHED.replace("{ low = 1e-4, high = 1e-1, log = true }", "[1e-3]")
    study(tmp_path, data, text, trials=1)
    monkeypatch.setattr(search, "package_version", lambda name: f"{name} of tomorrow")
    recorder = Recorder()
    study(tmp_path, data, text, recorder, trials=1)
    assert any("earlier trials were suggested by" in line and "of tomorrow" in line for line in recorder.lines)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_all_processes_and_says_how_to_resume(jobs: str, data: Path, tmp_path: Path) -> None:
    grid, output = tmp_path / "GRID.toml", tmp_path / "study"
    grid.write_text(GRID.replace("seeds = 2", "seeds = 9"))
    arguments = ["ablate", str(grid), "--data", str(data), "--output", str(output), "--jobs", jobs, "--device", "cpu"]
    process = WarmProcess(CODE, arguments)
    wait_for_cells(process, output, 1)
    os.killpg(process.pid, signal.SIGINT)
    done = process.finish()
    assert done.returncode == 1 and "run the same command again to resume" in done.stderr
    assert "failed" not in done.stderr
    assert 0 < len(times(output)) < 27
    wait_for_the_end_of_the_group(process.pid)
    assert json.loads((output / "state.json").read_text())["failed"] == {}


def break_one(patch: pytest.MonkeyPatch, part: str) -> None:
    train = CellTrainer._train

    def breaking(self: CellTrainer, options: Mapping[str, Any], features: str) -> None:
        if part in str(options["output"]):
            raise RuntimeError("planted")
        train(self, options, features)

    patch.setattr(CellTrainer, "_train", breaking)


def test_a_failed_cell_is_shown_and_the_others_continue(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        break_one(patch, "late-attn-seed1")
        result = study(tmp_path, data, test=True, reporter=recorder)
    assert result.tables is not None and len(result.tables.failed) == 1
    assert any("RuntimeError: planted" in line and "fusion=late seed=1" in line for line in recorder.lines)
    assert any("test was not read" in line for line in recorder.lines)
    assert not (data / "test_access.jsonl").exists()
    table = read_csv(result.output / "table.csv")
    assert [row["seeds"] for row in table] == ["2", "1", "2"]
    again = study(tmp_path, data)
    assert again.waiting == 0 and again.tables is not None and len(again.tables.failed) == 1
    retried = study(tmp_path, data, retry=True)
    assert retried.waiting == 1 and retried.tables is not None and not retried.tables.failed
    (tmp_path / "other").mkdir()
    whole = study(tmp_path / "other", data)
    assert (retried.output / "table.csv").read_bytes() == (whole.output / "table.csv").read_bytes()


def test_the_command_ends_with_1_if_a_cell_failed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_one(monkeypatch, "late-attn-seed1")
    grid = tmp_path / "GRID.toml"
    grid.write_text(GRID)
    arguments = ["ablate", str(grid), "--data", str(data), "--output", str(tmp_path / "study"), "--jobs", "1", "--json"]
    assert mervn(arguments) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out.splitlines()[-1])
    assert list(document["failed"].values()) == ["RuntimeError: planted"]
    assert [row["row"] for row in document["rows"]] == [{"fusion": "xattn"}, {"fusion": "late"}, {"fusion": "text"}]
    assert "--retry" in printed.err and "macro-F1" in printed.err


DIES = """
import os, sys
from mervn.model.unimodal import Late
class Dies(Late):
    outputs = ("text", "audio")
    def forward(self, streams):
        if os.getpid() != {test}:  # not in the process of the test
            os._exit(3)
        return super().forward(streams)
"""


def test_a_process_that_dies_fails_its_cell_only(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mervn.study.study_run.subprocess", WARM_SUBPROCESS)
    (tmp_path / "dies.py").write_text(DIES.format(test=os.getpid()))
    code = f"{tmp_path / 'dies.py'}:Dies"
    text = GRID.replace('"xattn"', f'"{code}"').replace("seeds = 2", "seeds = 1")
    result = study(tmp_path, data, text, jobs=2, trust_code=True)
    assert result.tables is not None
    (error,) = result.tables.failed.values()
    assert error == "its process ended with exit code 3; see logs/"
    table = read_csv(result.output / "table.csv")
    assert [row["seeds"] for row in table] == ["0", "1", "1"]
    assert [row["difference"] for row in table] == ["", "", ""]  # the reference has no scores


def test_missing_features_are_extracted_once_for_each_encoder(corpus: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(corpus, tmp_path / "data", copy_function=shutil.copy2))
    text = f'baselines = false\nseeds = 1\n{BASE}text-encoder = "hashed_ngrams"\n'
    text += '[rows]\naudio-encoder = ["fourier2vec@1", "fourier2vec@0"]\nfusion = ["late", "xattn"]\n'
    recorder = Recorder()
    planned = study(tmp_path, data, text, dry_run=True, reporter=recorder)
    assert planned.tables is None and not (data / "stores").exists() and not planned.output.exists()
    said = "\n".join(recorder.lines)
    assert "would extract 36 utterances with 2 encoders, once: hashed_ngrams, fourier2vec@1,0" in said
    assert "MB to write" in said
    result = study(tmp_path, data, text)
    stores = sorted((data / "stores").glob("*/*"))
    assert len(stores) == 3
    for store in stores:
        assert all(not name.startswith("test") for name in FeatureStore(store)) and len(FeatureStore(store)) == 36
    study(tmp_path, data, text, test=True)
    assert all(len(FeatureStore(store)) == 48 for store in stores)
    assert result.cells == 4


def test_rejected_utterances_are_left_out_of_test_too(corpus: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(corpus, tmp_path / "data", copy_function=shutil.copy2))
    spoil(data, "test-003", "valid-004")
    text = f'baselines = false\nseeds = 1\n{BASE}text-encoder = "hashed_ngrams"\naudio-encoder = "fourier2vec"\n'
    text += "allow-missing = true\n"
    text += '[rows]\nfusion = ["late", "xattn"]\n'
    assert [row["n"] for row in read_csv(study(tmp_path, data, text).output / "table.csv")] == ["11", "11"]
    for _ in range(2):
        tested = study(tmp_path, data, text, test=True)
        table = read_csv(tested.output / "table.csv")
        assert [(row["split"], row["n"]) for row in table] == [("test", "11"), ("test", "11")]
        assert len(read_jsonl(data / "test_access.jsonl")) == 2
    with pytest.raises(InputError, match="rejected"):
        study(tmp_path, data, text.replace("allow-missing = true\n", ""), output=tmp_path / "strict")


def test_changed_data_are_no_cells_of_the_same_study(data: Path, tmp_path: Path) -> None:
    study(tmp_path, data)
    lines = read_jsonl(data / "valid.jsonl")
    write_manifest(data / "valid.jsonl", lines[:-1])
    with pytest.raises(UsageError, match="holds a run of another configuration"):
        study(tmp_path, data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 0\n" + GRID.replace("seeds = 2\n", ""), "seeds must be a number of 1 or more"),
        (GRID.replace("epochs", "epoch"), "no option 'epoch'; did you mean epochs?"),
        (GRID.replace('"text"]', '"txt"]'), "did you mean text?"),
        (GRID.replace("[rows]", 'audio-encoder = "wav2vec"\n[rows]'), "did you mean wav2vec2"),
        (GRID.replace("[rows]", 'drop-label = ["sad"]\n[rows]'), "must hold at least two emotions, found happy"),
        (f"folds = [7]\n{GRID}", "--fold needs one folds-*.json"),
        (
            GRID.replace(', "text"]', ']\naudio-encoder = ["wav2vec2=no/model", "wav2vec2=no/model@4"]'),
            "found wav2vec2=no/model and wav2vec2=no/model@4; write wav2vec2=no/model@",
        ),
    ],
)
def test_wrong_grids_end_with_2_before_any_work(
    text: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, output = tmp_path / "GRID.toml", tmp_path / "study"
    grid.write_text(text)
    assert mervn(["ablate", str(grid), "--data", str(data), "--output", str(output)]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_misspelt_unit_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="--unit must be a key of the manifests, found 'speaker'; did you mean speaker_"
    ):
        study(tmp_path, data, unit="speaker")
    table = read_csv(study(tmp_path, data, unit="take").output / "table.csv")
    assert {row["unit"] for row in table} == {"utterance"}  # every take is another one


def test_a_folder_that_is_no_study_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds no study \(state.json is missing\)"):
        study(tmp_path, data)


def test_a_damaged_state_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "state.json").write_text("[]")
    with pytest.raises(InputError, match=r"state.json must hold the state of a study"):
        study(tmp_path, data)
