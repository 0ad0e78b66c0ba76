"""Search of tuned values: the trials follow from the grid and the scores alone; more trials keep the earlier ones."""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import pytest
from tiny import Recorder

from features.errors import UsageError
from features.extraction.settings import ExtractSettings
from features.progress import SILENT, Reporter
from mervn.config import AblateOptions
from mervn.study.ablate import ablate
from mervn.study.cells import make_rows
from mervn.study.grid import read_grid
from mervn.study.missing_features import MissingFeatures
from mervn.study.search import BATCH, RANDOM_TRIALS, RowSearch
from mervn.study.study_plan import Plan
from mervn.study.study_scores import Study

optuna = pytest.importorskip("optuna")
Tuned = dict[str, Any]
GRID = '[base]\ndim = 8\nmlp = [8]\naudio-encoder = "fourier2vec"\ntext-encoder = "hashed_ngrams"\n'
GRID += '[rows]\nfusion = ["xattn", "late"]\n[tune]\n'
AXES = (
    "learning-rate = { low = 1e-5, high = 1e-1, log = true }\nbatch-size = { low = 1, high = 64 }\nheads = [1, 2, 4]\n"
)


def scored(row: RowSearch, score: Callable[[Tuned], float | None]) -> Study:
    class Pooled:
        def __init__(self, value: float) -> None:
            self.value = value

        def scores(self, _: str) -> list[float]:
            return [self.value - 0.1, self.value + 0.1]

    class Fake:
        def pooled(self, _: int, candidate: int, split: str) -> Pooled | None:
            assert split == "valid"
            value = score(dict(row.candidates[candidate].tuned))
            return None if value is None else Pooled(value)

    return cast("Study", Fake())


def make(folder: Path, axes: str, trials: int, number: int = 0, reporter: Reporter = SILENT) -> RowSearch:
    path = folder / "GRID.toml"
    path.write_text(f"seeds = 2\n{GRID}{axes}".replace("dim = 8\n", "" if axes.startswith("dim") else "dim = 8\n"))
    grid, options = read_grid(path, trials=trials), AblateOptions(device="cpu", trials=trials)
    rows = make_rows(grid, {"device": "cpu"})
    plan = Plan(grid, rows, [], [None], folder, folder, options, MissingFeatures([], [], ExtractSettings(folder)), {})
    return RowSearch(plan, rows[number], optuna, reporter)


def search(row: RowSearch, score: Callable[[Tuned], float | None], batch: int = BATCH) -> list[Tuned]:
    while row.ask(batch):
        row.tell(scored(row, score), 0)
    return [dict(candidate.tuned) for candidate in row.candidates]


def near(tuned: Tuned) -> float:
    """A score that is best near a batch size of 20 with 2 heads."""
    return 1 - abs(tuned["batch_size"] - 20) / 64 - (0.0 if tuned["heads"] == 2 else 0.3)


def test_the_trials_are_those_of_optuna(tmp_path: Path) -> None:
    count = RANDOM_TRIALS + 2 * BATCH + 1
    found = search(make(tmp_path, AXES, count), near)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=RANDOM_TRIALS, multivariate=True, constant_liar=True)
    reference = optuna.create_study(sampler=sampler, direction="maximize")
    space = {
        "heads": optuna.distributions.CategoricalDistribution((0, 1, 2)),
        "learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
        "batch_size": optuna.distributions.IntDistribution(1, 64),
    }
    expected: list[Tuned] = []
    for start in range(0, count, BATCH):
        batch = [reference.ask(space) for _ in range(min(BATCH, count - start))]
        for trial in batch:
            tuned = {**trial.params, "heads": (1, 2, 4)[trial.params["heads"]]}
            reference.tell(trial, near(tuned))
            expected.append(tuned)
    assert len(found) == count
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == {**theirs, "learning_rate": pytest.approx(theirs["learning_rate"], rel=1e-5)}
        assert float(f"{ours['learning_rate']:.6g}") == ours["learning_rate"]  # as it stands in the table


def test_more_trials_keep_the_earlier_ones_and_the_scores_decide_about_the_later_ones(tmp_path: Path) -> None:
    most = search(make(tmp_path, AXES, 23), near)
    for fewer in (2, BATCH + 1, 18):
        assert search(make(tmp_path, AXES, fewer), near) == most[:fewer]
    other = search(make(tmp_path, AXES, 23), lambda tuned: 1 - near(tuned))
    assert other[:RANDOM_TRIALS] == most[:RANDOM_TRIALS] and other != most
    assert search(make(tmp_path, AXES, 23), near, batch=4) != most  # so the batches must not follow --jobs
    best = [tuned["batch_size"] for tuned in most[-BATCH:]]
    assert fmean(abs(size - 20) for size in best) < fmean(abs(tuned["batch_size"] - 20) for tuned in other[-BATCH:])


def test_lists_with_few_combinations_are_tried_in_full(tmp_path: Path) -> None:
    axes = "heads = [1, 2, 4]\ndropout = [0.0, 0.5]\n"
    row = make(tmp_path, axes, 9)
    assert row.trials == 6
    found = search(row, near)
    assert [tuple(tuned.values()) for tuned in found] == [(1, 0.0), (1, 0.5), (2, 0.0), (2, 0.5), (4, 0.0), (4, 0.5)]
    row = make(tmp_path, axes, 5)
    assert row.trials == 5 and len(search(row, lambda tuned: tuned["dropout"])) <= 5


def test_an_axis_that_a_row_does_not_read_is_not_searched(tmp_path: Path) -> None:
    late = make(tmp_path, "heads = [1, 2, 4]\n", 9, number=1)
    assert late.trials == 1 and search(late, near) == [{}]
    late = make(tmp_path, "heads = [1, 2]\ndropout = { low = 0.0, high = 0.5, step = 0.2 }\n", 6, number=1)
    found = search(late, lambda tuned: tuned["dropout"])
    assert not any("heads" in tuned for tuned in found)
    assert len(found) <= 3 and {tuned["dropout"] for tuned in found} <= {0.0, 0.2, 0.4}  # repeated trials are one


def test_values_that_exclude_each_other_are_reported_and_train_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    row = make(tmp_path, "dim = { low = 8, high = 16 }\nheads = [1, 8]\n", 12, reporter=recorder)
    found = search(row, lambda tuned: tuned["dim"])
    assert 0 < len(found) < 12 and all(tuned["dim"] % tuned["heads"] == 0 for tuned in found)
    assert recorder.lines and all("dim must be a multiple of heads" in line for line in recorder.lines)
    none = make(tmp_path, "dim = { low = 8, high = 64 }\nheads = [8]\n", 1)
    none.ask(1)
    with pytest.raises(UsageError, match=r"\[tune\] must have values that can be trained, found none for fusion=xattn"):
        none.searched()


def test_a_trial_with_a_failed_cell_has_no_score(tmp_path: Path) -> None:
    row = make(tmp_path, AXES, RANDOM_TRIALS)
    search(row, lambda tuned: None if tuned["heads"] == 1 else 0.5)
    failed = [trial.params["heads"] == 0 for trial in row.study.trials if trial.state.name == "FAIL"]
    assert failed and all(failed)
    assert {trial.value for trial in row.study.trials if trial.state.name == "COMPLETE"} == {0.5}


def test_without_optuna_the_command_to_install_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r'--trials needs Optuna: pip install "mervn\[search\]"'):
        ablate(tmp_path / "none.toml", AblateOptions(device="cpu", trials=2), tmp_path)
