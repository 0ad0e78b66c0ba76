"""Tables of a study, against formulas and scikit-learn: selection on valid, intervals over speakers, differences."""

import csv
import io
import json
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from features.errors import InputError
from features.tables import latex_text
from mervn.config import TrainHeadOptions
from mervn.evaluation.intervals import METRICS, PairedDifference, group_units, paired_difference, unit_confusions
from mervn.study.cells import Candidate, Cell, Row
from mervn.study.study_baselines import label_key
from mervn.study.study_scores import Study, marginal_effects
from mervn.study.table_files import write_tables
from mervn.study.tables import make_tables, table_lines
from mervn.training.setup import resolve_head_options

LABELS = ("angry", "happy", "sad")
N, SPEAKERS = 60, 8
RESOLVED = resolve_head_options(TrainHeadOptions(device="cpu"))
LINEAR = resolve_head_options(TrainHeadOptions(device="cpu", fusion="linear"))


@dataclass(frozen=True)
class Fake:
    """Predictions of one cell: right with probability `skill`."""

    skill: float
    seed: int
    salt: int = 0


def entries(fake: Fake, split: str, speakers: bool = True, fold: int = 0) -> list[dict[str, Any]]:
    labels = np.random.default_rng((len(split), fold)).integers(0, 3, N)  # the same for all cells
    rng = np.random.default_rng((fake.seed, fake.salt, round(1000 * fake.skill), len(split), fold))
    guesses = np.where(rng.random(N) < fake.skill, labels, rng.integers(0, 3, N))
    found = []
    for i in range(N):
        probabilities = {label: float(k == guesses[i]) for k, label in enumerate(LABELS)}
        found.append(
            {
                "utterance_id": f"{split}-{fold}-{i:03d}", "speaker_id": f"s{i % 11 % SPEAKERS}" * speakers,
                "label": LABELS[labels[i]], "prediction": LABELS[guesses[i]], "probabilities": probabilities,
            }
        )  # fmt: skip
    return found


def write_run(run: Path, fake: Fake, **options: Any) -> None:
    run.mkdir(parents=True)
    scores = dict.fromkeys(METRICS, 0.5)
    (run / "metrics.json").write_text(json.dumps({"selected_epoch": 3, "valid": scores}))
    (run / "environment.json").write_text(json.dumps({"seconds": 2.0 + fake.seed}))
    for split in ("valid", "test"):
        lines = [json.dumps(entry) + "\n" for entry in entries(fake, split, **options)]
        (run / f"predictions-{split}.jsonl").write_text("".join(lines))


def make_study(
    folder: Path, skills: Mapping[str, Sequence[float]], seeds: int = 3, folds: Sequence[int | None] = (None,),
    incomplete: Sequence[str] = (), speakers: bool = True,
) -> Study:  # fmt: skip
    """Return a study with one row per name, one candidate per skill; the first row is the reference."""
    rows, cells = [], []
    for number, (name, of_row) in enumerate(skills.items()):
        candidates = []
        for which, skill in enumerate(of_row):
            candidates.append(Candidate({"dim": which}, RESOLVED.options, RESOLVED, f"{name}-{which}"))
            for fold in folds:
                for seed in range(seeds):
                    run = folder / "runs" / f"{name}-{which}-{fold}-{seed}"
                    write_run(run, Fake(skill, seed, number), speakers=speakers, fold=fold or 0)
                    options = RESOLVED.options.model_copy(update={"output": run})
                    cells.append(Cell(number, which, fold, seed, options, "features"))
        rows.append(Row({"fusion": name}, candidates, number == 0))
    return Study(rows, cells, frozenset(cell.name for cell in cells) - frozenset(incomplete))


def labels_of(found: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return [entry[key] for entry in found]


def macro_f1(found: Sequence[Mapping[str, Any]]) -> float:
    truth, guesses = labels_of(found, "label"), labels_of(found, "prediction")
    return float(f1_score(truth, guesses, labels=LABELS, average="macro", zero_division=0))


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_mean_and_deviation_are_those_of_scikit_learn_over_seeds(tmp_path: Path) -> None:
    scores = make_study(tmp_path, {"late": [0.5], "xattn": [0.8]}).scores("valid")
    for number, (row, skill) in enumerate(zip(scores, (0.5, 0.8), strict=True)):
        values = [macro_f1(entries(Fake(skill, seed, number), "valid")) for seed in range(3)]
        assert row.mean() == pytest.approx(statistics.mean(values), abs=1e-12)
        assert row.deviation() == pytest.approx(statistics.stdev(values), abs=1e-12)
        right = []
        for seed in range(3):
            found = entries(Fake(skill, seed, number), "valid")
            right.append(accuracy_score(labels_of(found, "label"), labels_of(found, "prediction")))
        assert row.mean("accuracy") == pytest.approx(statistics.mean(right), abs=1e-12)
    assert scores[0].mean() != scores[1].mean()


def test_a_single_seed_has_no_deviation(tmp_path: Path) -> None:
    (row,) = make_study(tmp_path, {"late": [0.5]}, seeds=1).scores("valid")
    assert row.mean() is not None and row.deviation() is None


def mean_macro_f1(of_seeds: Sequence[Sequence[Mapping[str, Any]]]) -> float:
    return statistics.mean(map(macro_f1, of_seeds))


def test_the_interval_is_the_jackknife_over_speakers_of_the_mean_over_seeds(tmp_path: Path) -> None:
    (row,) = make_study(tmp_path, {"late": [0.6]}).scores("valid")
    of_seeds = [entries(Fake(0.6, seed), "valid") for seed in range(3)]
    speakers = sorted({entry["speaker_id"] for entry in of_seeds[0]})
    without = []
    for one in speakers:
        without.append(mean_macro_f1([[entry for entry in found if entry["speaker_id"] != one] for found in of_seeds]))
    count = len(speakers)
    error = np.sqrt((count - 1) / count * ((np.array(without) - np.mean(without)) ** 2).sum())
    half = stats.t.ppf(0.975, count - 1) * error
    mean = mean_macro_f1(of_seeds)
    assert row.interval is not None and row.interval.groups == count == SPEAKERS
    assert (row.interval.low, row.interval.high) == pytest.approx((mean - half, mean + half))
    # negative control: with the utterance as unit it is another interval
    alone = [mean_macro_f1([[*found[:i], *found[i + 1 :]] for found in of_seeds]) for i in range(N)]
    error = np.sqrt((N - 1) / N * ((np.array(alone) - np.mean(alone)) ** 2).sum())
    assert row.interval.high - mean != pytest.approx(stats.t.ppf(0.975, N - 1) * error, rel=0.02)


def test_predictions_of_folds_are_pooled_for_each_seed(tmp_path: Path) -> None:
    (row,) = make_study(tmp_path, {"late": [0.6]}, folds=[1, 2]).scores("valid")
    values = []
    for seed in range(3):
        both = [entry for fold in (1, 2) for entry in entries(Fake(0.6, seed), "valid", fold=fold)]
        values.append(macro_f1(both))
    assert row.mean() == pytest.approx(statistics.mean(values), abs=1e-12)
    assert row.pooled is not None and len(row.pooled.keys) == 2 * N
    of_folds = [macro_f1(entries(Fake(0.6, 0), "valid", fold=fold)) for fold in (1, 2)]
    assert row.pooled.scores("macro_f1")[0] != pytest.approx(statistics.mean(of_folds), abs=1e-6)  # control


def test_the_candidate_is_chosen_on_valid_and_shown_on_test(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.3, 0.9, 0.5]})
    (row,) = study.scores("test")
    assert row.chosen == 1 and row.tuned == {"dim": 1}
    values = [macro_f1(entries(Fake(0.9, seed), "test")) for seed in range(3)]
    assert row.mean() == pytest.approx(statistics.mean(values), abs=1e-12)


def test_the_choice_does_not_change_with_test(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.3, 0.9, 0.5]})
    for cell in study.cells:  # on test, the candidate that is worst on valid is perfect, and the best one is wrong
        path = cell.run / "predictions-test.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for entry in lines:
            wrong = LABELS[(LABELS.index(entry["label"]) + 1) % 3]
            entry["prediction"] = entry["label"] if cell.candidate == 0 else wrong
            entry["probabilities"] = {label: float(label == entry["prediction"]) for label in LABELS}
        path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    (row,) = Study(study.rows, study.cells, study.complete).scores("test")
    assert row.chosen == 1 and row.mean() == 0


def in_blocks(pairs: Sequence[tuple[Fake, Fake]]) -> PairedDifference:
    """Return the difference of macro-F1 with a block on the diagonal for each pair and each of 3 seeds.

    The macro-F1 of such a matrix is the mean of those of its blocks, so plain matrices (G, C, C) give the result.
    """
    found: list[np.ndarray[Any, Any]] = []
    for which in (0, 1):
        blocks = np.zeros((SPEAKERS, 9 * len(pairs), 9 * len(pairs)), np.int64)
        for k, pair in enumerate(pairs):
            for seed in range(3):
                lines = entries(Fake(pair[which].skill, seed, pair[which].salt), "valid")
                truth = np.array([LABELS.index(label) for label in labels_of(lines, "label")])
                guesses = np.array([LABELS.index(label) for label in labels_of(lines, "prediction")])
                place = slice(9 * k + 3 * seed, 9 * k + 3 * seed + 3)
                blocks[:, place, place] = unit_confusions(
                    truth, guesses, group_units(labels_of(lines, "speaker_id")), 3
                )
        found.append(blocks)
    units = group_units(labels_of(entries(Fake(0.5, 0), "valid"), "speaker_id"))
    return paired_difference(found[0], found[1], units, "macro_f1")


def assert_same(found: PairedDifference | None, expected: PairedDifference) -> None:
    assert found is not None and found.interval is not None and expected.interval is not None
    assert found.difference == pytest.approx(expected.difference)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.interval.low, expected.interval.high))
    assert (found.p, found.test, found.groups) == (pytest.approx(expected.p), expected.test, expected.groups)
    assert found.smallest_difference == pytest.approx(expected.smallest_difference)


def test_differences_are_paired_and_corrected_by_holm(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.5], "xattn": [0.75], "text": [0.55], "audio": [0.9]})
    scores = study.scores("valid")
    assert scores[0].difference is None and scores[0].p_holm is None

    expected = [
        in_blocks([(Fake(skill, 0, number), Fake(0.5, 0, 0))]) for number, skill in ((1, 0.75), (2, 0.55), (3, 0.9))
    ]
    for row, one in zip(scores[1:], expected, strict=True):
        assert_same(row.difference, one)
        assert row.difference is not None
        assert row.difference.difference == pytest.approx((row.mean() or 0) - (scores[0].mean() or 0))
    p = [float(one.p or 0) for one in expected]
    order = sorted(range(3), key=p.__getitem__)
    adjusted, most = [0.0] * 3, 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (3 - rank) * p[i]))
        adjusted[i] = most
    assert [row.p_holm for row in scores[1:]] == pytest.approx(adjusted)
    assert adjusted != p


def test_marginal_effects_compare_rows_that_differ_in_one_axis(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"a": [0.5], "b": [0.7], "c": [0.6], "d": [0.8]})
    axes = (
        {"fusion": "x", "dim": 8},
        {"fusion": "x", "dim": 16},
        {"fusion": "y", "dim": 8},
        {"fusion": "y", "dim": 16},
    )
    rows = [Row(values, row.candidates, row.is_reference) for values, row in zip(axes, study.rows, strict=True)]
    scores = Study(rows, study.cells, study.complete).scores("valid")
    effects = {(effect.axis, effect.value): effect for effect in marginal_effects(scores)}
    assert list(effects) == [("fusion", "x"), ("fusion", "y"), ("dim", 8), ("dim", 16)]
    assert [effect.pairs for effect in effects.values()] == [0, 2, 0, 2]
    wide = effects["dim", 16]
    assert wide.mean == pytest.approx(statistics.mean([scores[1].mean() or 0, scores[3].mean() or 0]))
    pairs = [(Fake(0.7, 0, 1), Fake(0.5, 0, 0)), (Fake(0.8, 0, 3), Fake(0.6, 0, 2))]
    assert_same(wide.difference, in_blocks(pairs))
    narrow = effects["dim", 8]
    assert wide.difference is not None and wide.mean is not None and narrow.mean is not None
    assert wide.difference.difference == pytest.approx(wide.mean - narrow.mean)
    assert effects["dim", 8].difference is None and effects["dim", 8].p_holm is None
    # one at a time: only the reference is a partner
    three = Study([rows[0], rows[1], rows[2]], study.cells, study.complete).scores("valid")
    assert [effect.pairs for effect in marginal_effects(three)] == [0, 1, 0, 1]


def test_pairs_with_other_numbers_of_classes_are_not_pooled(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"a": [0.5], "b": [0.7], "c": [0.6], "d": [0.8]})
    for cell in study.cells[6:]:  # the last two rows read two labels
        path = cell.run / "predictions-valid.jsonl"
        lines = [json.loads(line.replace('"angry"', '"sad"')) for line in path.read_text().splitlines()]
        for line in lines:
            line["probabilities"] = {label: float(label == line["prediction"]) for label in LABELS[1:]}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    axes = [{"label-map": labels, "fusion": fusion} for labels in ("3", "2") for fusion in ("x", "y")]
    rows = [Row(values, row.candidates, row.is_reference) for values, row in zip(axes, study.rows, strict=True)]
    effects = marginal_effects(Study(rows, study.cells, study.complete).scores("valid"))
    assert [(effect.axis, effect.pairs) for effect in effects] == [
        ("label-map", 0), ("label-map", 2), ("fusion", 0), ("fusion", 2)
    ]  # fmt: skip
    assert all(effect.difference is None for effect in effects)


def test_a_run_whose_weights_were_deleted_stays_in_the_table(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.5]})
    expected = study.scores("valid")[0].mean()
    for cell in study.cells:
        path = cell.run / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "trained_model_sha256": "0" * 64}))
    assert Study(study.rows, study.cells, study.complete).scores("valid")[0].mean() == expected
    (study.cells[0].run / "model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match="must hold the weights that the training wrote"):
        Study(study.rows, study.cells, study.complete).scores("valid")


def test_a_seed_counts_only_if_all_its_folds_are_complete(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7]}, folds=[1, 2], incomplete=["xattn-0-2-1"])
    scores = study.scores("valid")
    assert scores[1].pooled is not None and list(scores[1].pooled.confusions) == [0, 2]
    assert scores[1].difference is not None  # over the seeds that both have


def test_a_candidate_with_failed_seeds_is_not_chosen_by_luck(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.9, 0.5]}, incomplete=["late-0-None-0"])
    assert study.scores("valid")[0].chosen == 1


def test_a_row_without_complete_cells_stays_in_the_table(tmp_path: Path) -> None:
    missing = [f"xattn-0-None-{seed}" for seed in range(3)]
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7]}, incomplete=missing)
    write_tables(study, make_tables(study, "valid", dict.fromkeys(missing, "RuntimeError: broken\nmore")), tmp_path)
    rows = read_csv(tmp_path / "table.csv")
    assert [row["macro_f1_mean"] == "" for row in rows] == [False, True]
    cells = read_csv(tmp_path / "cells.csv")
    assert [cell["status"] for cell in cells] == ["complete"] * 3 + ["failed"] * 3
    assert cells[3]["error"] == "RuntimeError: broken"
    assert "- `xattn-0-None-0`: RuntimeError: broken" in (tmp_path / "table.md").read_text()


def test_other_utterances_are_never_compared(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7]})
    for cell in study.cells[3:]:
        path = cell.run / "predictions-valid.jsonl"
        path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    assert study.scores("valid")[1].difference is None
    other = make_study(tmp_path / "other", {"late": [0.6], "xattn": [0.7]})
    for cell in other.cells[3:]:  # the same utterances, of which one has another label
        path = cell.run / "predictions-valid.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[0]["label"] = LABELS[(LABELS.index(lines[0]["label"]) + 1) % 3]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert other.scores("valid")[1].difference is None
    path = study.cells[0].run / "predictions-valid.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(InputError, match="all seeds must have predictions of the same utterances"):
        Study(study.rows, study.cells, study.complete).scores("valid")


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.6]})
    (study.cells[0].run / "predictions-valid.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"predictions-valid.jsonl:1: must be a JSON object with an utterance_id"):
        study.scores("valid")


def test_the_order_of_the_lines_does_not_matter(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7]})
    expected = study.scores("valid")
    for cell in (study.cells[1], study.cells[5]):
        path = cell.run / "predictions-valid.jsonl"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    found = Study(study.rows, study.cells, study.complete).scores("valid")
    for one, other in zip(expected, found, strict=True):
        assert one.interval == other.interval and one.difference == other.difference


def change_lines(path: Path, fault: str) -> None:
    """Plant a fault that keeps the number of lines."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if fault == "an utterance twice":
        lines[1] = lines[0]
    elif fault == "another label in one seed":
        lines[0]["label"] = LABELS[(LABELS.index(lines[0]["label"]) + 1) % 3]
    else:
        lines[0]["prediction"] = LABELS[(LABELS.index(lines[0]["prediction"]) + 1) % 3]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("an utterance twice", r":2: utterance_id must occur once, found 'valid-0-000' in line 1 too"),
        ("another label in one seed", r"must have the same label of each utterance in all seeds, found another"),
        ("another prediction", r":1: prediction must be a most probable label, found "),
    ],
)
def test_predictions_that_keep_their_number_but_not_their_content_are_named(
    tmp_path: Path, fault: str, message: str
) -> None:
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7]})
    change_lines(study.cells[1].run / "predictions-valid.jsonl", fault)
    with pytest.raises(InputError, match=message):
        study.scores("valid")


def test_a_line_separator_in_a_key_of_the_manifest_ends_no_line(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7]})
    expected = study.scores("valid")[0].mean()
    for cell in study.cells:
        path = cell.run / "predictions-valid.jsonl"
        lines = [{**json.loads(line), "note": "a\u2028b\x85c"} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    assert Study(study.rows, study.cells, study.complete).scores("valid")[0].mean() == expected


@pytest.mark.parametrize(("split", "metrics"), [("valid", "metrics.json"), ("test", "metrics-test.json")])
def test_predictions_that_were_cut_between_two_lines_are_named(tmp_path: Path, split: str, metrics: str) -> None:
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7]}, seeds=1)
    run = study.cells[1].run
    path = run / f"predictions-{split}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    scores = {**dict.fromkeys(METRICS, 0.5), "n": len(lines)}
    (run / metrics).write_text(json.dumps({"selected_epoch": 3, split: scores}))
    assert len(Study(study.rows, study.cells, study.complete).scores(split)) == 2
    path.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=f"must hold the {len(lines)} utterances that were scored, found"):
        Study(study.rows, study.cells, study.complete).scores(split)


def test_unknown_speakers_are_said_to_be_assumed_independent(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7]}, speakers=False)
    tables = make_tables(study, "valid", {})
    assert "assumes independent utterances" in tables.caption
    write_tables(study, tables, tmp_path)
    assert {row["unit"] for row in read_csv(tmp_path / "table.csv")} == {"utterance"}


def test_the_caption_says_whether_there_are_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = make_tables(make_study(tmp_path, {"late": [0.6]}), "valid", {})
    assert "95 % intervals: delete-one-unit jackknife over 8 speakers, " in tables.caption
    monkeypatch.setattr("mervn.study.tables.MIN_INTERVAL_UNITS", SPEAKERS + 1)
    assert "No intervals over 8 speakers, " in tables.caption and "jackknife" not in tables.caption


def test_rows_with_other_utterances_are_named_and_not_compared(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.5], "xattn": [0.8], "text": [0.9]})
    assert "Not compared" not in make_tables(study, "valid", {}).caption
    for cell in study.of(2, 0):  # one utterance of text is missing in all seeds
        path = cell.run / "predictions-valid.jsonl"
        kept = path.read_text().splitlines(keepends=True)[:-1]
        path.write_text("".join(kept))
        document = json.loads((cell.run / "metrics.json").read_text())
        scored = list(map(json.loads, kept))
        counts = [[sum((one["label"], one["prediction"]) == (a, b) for one in scored) for b in LABELS] for a in LABELS]
        document["valid"] |= {"n": len(kept), "confusion": counts}
        (cell.run / "metrics.json").write_text(json.dumps(document))
    study = Study(study.rows, study.cells, study.complete)
    tables = make_tables(study, "valid", {})
    assert [scores.difference is None for scores in tables.scores] == [True, False, True]
    count = len(kept)
    assert (
        f"Not compared with the reference ({count + 1} utterances), because their utterances, labels or seeds are "
        f"others: {tables.scores[2].row} ({count})."
    ) in tables.caption


def test_table_csv_is_a_pure_function_of_the_predictions(tmp_path: Path) -> None:
    first = make_study(tmp_path / "a", {"late": [0.6], "xattn": [0.7, 0.4]})
    second = make_study(tmp_path / "b", {"late": [0.6], "xattn": [0.7, 0.4]})
    for cell in second.cells:
        (cell.run / "environment.json").write_text('{"seconds": 99.0}')
    for study, name in ((first, "a"), (second, "b")):
        write_tables(study, make_tables(study, "valid", {}), tmp_path / name)
    for file in ("table.csv", "effects.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a" / "cells.csv").read_bytes() != (tmp_path / "b" / "cells.csv").read_bytes()  # the times


def test_cells_csv_has_one_line_per_cell(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.6], "xattn": [0.7, 0.4]})
    write_tables(study, make_tables(study, "test", {}), tmp_path)
    cells = read_csv(tmp_path / "cells.csv")
    assert len(cells) == 9
    assert [cell["chosen"] for cell in cells] == ["true"] * 6 + ["false"] * 3
    assert [cell["test_accuracy"] != "" for cell in cells] == [True] * 6 + [False] * 3
    found = entries(Fake(0.7, 2, 1), "test")
    assert float(cells[5]["test_macro_f1"]) == pytest.approx(macro_f1(found), abs=1e-6)
    assert cells[5]["seconds"] == "4.000000" and cells[5]["run"] == "runs/xattn-0-None-2"


def test_the_table_for_latex_escapes_and_has_as_many_columns_as_it_says(tmp_path: Path) -> None:
    assert latex_text("a_b & 5 % \\ ±") == r"a\_b \& 5 \% \textbackslash{} $\pm$"
    study = make_study(tmp_path, {"bilstm_attn": [0.6], "my.py:A_B": [0.7]})
    write_tables(study, make_tables(study, "valid", {}), tmp_path)
    text = (tmp_path / "table.tex").read_text()
    assert r"bilstm\_attn" in text and r"my.py:A\_B" in text
    columns = 0
    for line in text.splitlines():
        if line.startswith(r"\begin{tabular}"):
            columns = len(line.split("}{")[1].rstrip("}"))
        if line.endswith(r"\\"):
            assert line.replace(r"\&", "").count("&") == columns - 1
    markdown = (tmp_path / "table.md").read_text()
    widths = {line.count(" | ") for line in markdown.splitlines() if line.startswith("| ")}
    assert len(widths) == 2  # of the table and of the effects


def with_baselines(folder: Path, skills: Mapping[str, float], linear: float) -> Study:
    """Return a study of rows with three seeds, whose last row is a linear head with one."""
    study = make_study(folder, {**{name: [skill] for name, skill in skills.items()}, "linear": [linear]})
    last, seeds = len(skills), 3
    rows = [replace(row, linear=last) for row in study.rows[:last]]
    candidate = Candidate({}, LINEAR.options, LINEAR, "linear")
    rows.append(replace(study.rows[last], candidates=[candidate], is_baseline=True))
    cells = [cell for cell in study.cells if cell.row != last or cell.seed == 0]
    assert len(cells) == last * seeds + 1
    answers = {(label_key(RESOLVED.options), None): "sad"}
    return Study(rows, cells, frozenset(cell.name for cell in cells), majority=answers)


def test_each_row_is_compared_with_linear_on_every_seed(tmp_path: Path) -> None:
    scores = with_baselines(tmp_path, {"late": 0.6, "xattn": 0.9, "text": 0.3}, 0.6).scores("valid")
    linear = entries(Fake(0.6, 0, 3), "valid")  # its only seed
    units = group_units(labels_of(linear, "speaker_id"))
    for number, row in enumerate(scores[:3]):
        # the mean over seeds against the same predictions is the mean of single comparisons
        of_seeds = []
        for seed in range(3):
            found = entries(Fake((0.6, 0.9, 0.3)[number], seed, number), "valid")
            pairs = [[np.array([LABELS.index(x) for x in labels_of(some, key)]) for key in ("label", "prediction")]
                     for some in (found, linear)]  # fmt: skip
            counts = [unit_confusions(*pair, units, 3) for pair in pairs]
            of_seeds.append(paired_difference(*counts, units, "macro_f1").difference)
        assert row.to_linear is not None and row.to_linear.difference == pytest.approx(statistics.mean(of_seeds))
    verdicts = [(row.kind, row.against_linear) for row in scores]
    assert verdicts == [
        ("head", "does not beat linear"), ("head", "beats linear"), ("head", "does not beat linear"),
        ("linear", ""), ("majority", ""),
    ]  # fmt: skip
    assert scores[0].to_linear is not None and scores[0].to_linear.interval is not None
    assert scores[0].to_linear.interval.low < 0 < scores[0].to_linear.interval.high  # and is flagged all the same


def test_a_difference_that_changes_with_the_seed_is_not_called_a_win_over_linear(tmp_path: Path) -> None:
    study = with_baselines(tmp_path, {"late": 0.9, "xattn": 0.9}, 0.5)
    (unlucky,) = [cell for cell in study.cells if cell.row == 1 and cell.seed == 2]
    shutil.rmtree(unlucky.run)
    write_run(unlucky.run, Fake(0.2, 2, 1))
    scores = study.scores("valid")
    assert [row.against_linear for row in scores[:2]] == ["beats linear", "does not beat linear"]
    found, by_units = scores[1].linear_over_seeds, scores[1].to_linear
    assert (
        by_units is not None and by_units.interval is not None and by_units.interval.low > 0
    )  # speakers alone show it
    linear = macro_f1(entries(Fake(0.5, 0, 2), "valid"))
    gaps = [macro_f1(entries(Fake(skill, seed, 1), "valid")) - linear for seed, skill in enumerate((0.9, 0.9, 0.2))]
    low, high = stats.t.interval(0.95, 2, statistics.mean(gaps), stats.sem(gaps))
    assert found is not None and (found.low, found.high) == pytest.approx((low, high)) and low < 0 < high
    write_tables(study, make_tables(study, "valid", {}), tmp_path)
    assert "does not beat linear over seeds" in (tmp_path / "table.md").read_text()
    row = read_csv(tmp_path / "table.csv")[1]
    assert (float(row["linear_seeds_low"]), float(row["linear_seeds_high"])) == pytest.approx((low, high), abs=1e-6)
    to_reference = [macro_f1(entries(Fake(0.9, seed), "valid")) for seed in range(3)]
    differences = [gap + linear - other for gap, other in zip(gaps, to_reference, strict=True)]
    low, high = stats.t.interval(0.95, 2, statistics.mean(differences), stats.sem(differences))
    ends = float(row["difference_seeds_low"]), float(row["difference_seeds_high"])
    assert ends == pytest.approx((low, high), abs=1e-6)
    effect = read_csv(tmp_path / "effects.csv")[1]  # one pair: the same difference
    assert float(effect["difference_seeds_low"]) == pytest.approx(low, abs=1e-6)


def test_a_difference_that_no_speaker_changes_is_no_evidence(tmp_path: Path) -> None:
    study = with_baselines(tmp_path, {"late": 0.9}, 0.5)
    for cell in study.cells:  # of each speaker the same: always right, or always the same mistakes
        for path in cell.run.glob("predictions-*.jsonl"):
            found = []
            for number in range(N):
                label, answer = LABELS[number // SPEAKERS % 2], LABELS[number // SPEAKERS % 2 if cell.row == 0 else 0]
                probabilities = {name: float(name == answer) for name in LABELS}
                found.append(
                    {
                        "utterance_id": str(number), "speaker_id": f"s{number % SPEAKERS}", "label": label,
                        "prediction": answer, "probabilities": probabilities,
                    }
                )  # fmt: skip
            path.write_text("".join(json.dumps(entry) + "\n" for entry in found[: N // 16 * 16]))
    row = study.scores("valid")[0]
    assert row.to_linear is not None and row.to_linear.difference > 0.3
    assert row.against_linear == "no interval: the difference is the same without any unit"


def test_baselines_change_neither_holms_correction_nor_the_effects(tmp_path: Path) -> None:
    skills = {"late": 0.5, "xattn": 0.75, "text": 0.55}
    plain = make_study(tmp_path / "plain", {name: [skill] for name, skill in skills.items()})
    study = with_baselines(tmp_path / "with", skills, 0.7)
    expected, found = plain.scores("valid"), study.scores("valid")
    assert [row.p_holm for row in found] == [*(row.p_holm for row in expected), None, None]
    assert expected[1].p_holm is not None and found[3].difference is not None and found[3].difference.p is not None
    four = make_study(tmp_path / "four", {name: [skill] for name, skill in {**skills, "linear": 0.7}.items()})
    assert four.scores("valid")[1].p_holm != expected[1].p_holm  # control: as a row it would
    effects = marginal_effects(found)
    assert [(effect.value, effect.p_holm) for effect in effects] == [
        (effect.value, effect.p_holm) for effect in marginal_effects(expected)
    ]


def test_the_majority_has_the_scores_of_its_answer_and_an_interval(tmp_path: Path) -> None:
    (*_, row) = with_baselines(tmp_path, {"late": 0.6}, 0.6).scores("test")
    truth = labels_of(entries(Fake(0.6, 0), "test"), "label")
    expected = f1_score(truth, ["sad"] * N, labels=LABELS, average="macro", zero_division=0)
    assert row.mean() == pytest.approx(expected) and row.deviation() is None
    assert row.mean("accuracy") == pytest.approx(truth.count("sad") / N)
    assert row.interval is not None and row.interval.groups == SPEAKERS
    assert row.difference is not None and row.p_holm is None


def test_baselines_stand_at_the_end_of_every_table(tmp_path: Path) -> None:
    study = with_baselines(tmp_path, {"late": 0.6, "xattn": 0.9}, 0.6)
    tables = make_tables(study, "valid", {})
    write_tables(study, tables, tmp_path)
    assert [row["group"] for row in read_csv(tmp_path / "table.csv")] == ["rows", "rows", "baselines", "baselines"]
    lines = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| ")]
    assert lines[0].startswith("| kind | fusion |")
    assert [line.split(" |")[0] for line in lines[2:6]] == ["| head", "| head", "| linear", "| majority"]
    assert [": does not beat linear" in line for line in lines[2:6]] == [True, False, False, False]
    assert "logistic regression on the time-means of the same features" in tables.caption
    assert len(read_csv(tmp_path / "cells.csv")) == 7  # the majority has none
    plain = make_study(tmp_path / "plain", {"late": [0.6]})
    assert "against linear" not in table_lines(make_tables(plain, "valid", {}))[0]


def test_with_few_speakers_nothing_is_said_about_linear(tmp_path: Path) -> None:
    study = with_baselines(tmp_path, {"late": 0.2}, 0.9)
    for cell in study.cells:
        path = cell.run / "predictions-valid.jsonl"
        path.write_text(re.sub(r'"speaker_id": "s[2-9]"', '"speaker_id": "s1"', path.read_text()))
    scores = study.scores("valid")
    assert scores[0].to_linear is not None and scores[0].to_linear.difference < -0.3
    assert scores[0].against_linear == "no interval: fewer than 4 units"
    assert "does not beat" not in " ".join(table_lines(make_tables(study, "valid", {}))[1][0])


def test_a_row_that_scored_other_utterances_than_linear_is_not_flagged(tmp_path: Path) -> None:
    study = with_baselines(tmp_path, {"late": 0.2}, 0.9)
    path = study.cells[-1].run / "predictions-valid.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    assert study.scores("valid")[0].against_linear == "not compared: other utterances, or no complete cells"
    failed = with_baselines(tmp_path / "failed", {"late": 0.2}, 0.9)
    complete = failed.complete - {failed.cells[-1].name}
    scores = Study(failed.rows, failed.cells, complete).scores("valid")
    assert scores[0].against_linear.startswith("not compared") and len(scores) == 2  # nor is there a majority


def test_a_linear_head_with_its_only_seed_can_be_chosen(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"late": [0.5, 0.9]})
    row = study.rows[0]
    linear = Candidate({}, LINEAR.options, LINEAR, "linear")
    cells = [cell for cell in study.cells if cell.candidate == 0 or cell.seed == 0]
    found = Study([replace(row, candidates=[row.candidates[0], linear])], cells, study.complete)
    assert found.choose(0) == 1 and found.scores("valid")[0].kind == "linear"
    # control: a head of which seeds are missing is not
    assert Study(study.rows, study.cells, frozenset(cell.name for cell in cells)).choose(0) == 0
