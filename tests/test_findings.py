"""The sentences of a report say what the scores show, and what weakens them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from mervn.evaluation.intervals import METRICS, Units, group_units, jackknife_interval
from mervn.evaluation.saved_predictions import SavedPredictions
from mervn.report.findings import verdict, warnings
from mervn.report.run_data import RunData, group_confusions, speakers


def predictions(targets: np.ndarray[Any, Any], names: list[str], right: float = 1.0, seed: int = 0) -> SavedPredictions:
    rng = np.random.default_rng(seed)
    shown = np.where(rng.random(len(targets)) < right, targets, 1 - targets)
    entries = [{"utterance_id": str(i), "speaker_id": speaker} for i, speaker in enumerate(names)]
    return SavedPredictions(Path("run"), entries, targets, shown, np.eye(2)[shown] * 0.8 + 0.1, {})


def run_of(found: SavedPredictions, **metrics: Any) -> RunData:
    macro_f1 = f1_score(found.targets, found.predictions, average="macro")
    config: Any = SimpleNamespace(labels=["a", "b"])
    known = {"selected_epoch": 2, "features": {}, "dropped": {}, **metrics}
    history = [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    return RunData(Path("run"), config, known, {"macro_f1": macro_f1, "missing": 0}, history, {}, "test", found, 1)


def judge(found: SavedPredictions) -> tuple[str, list[str], Units]:
    units = speakers(found)
    intervals = {metric: jackknife_interval(group_confusions(found, units), units, metric) for metric in METRICS}
    data = run_of(found)
    return verdict(data, units, intervals), warnings(data, units, intervals), units


def test_a_good_run_is_more_than_a_constant_and_a_random_one_is_not_shown_to_be() -> None:
    targets = np.tile([0, 1], 100)
    names = [f"s{i // 20}" for i in range(200)]
    sentence, said, _ = judge(predictions(targets, names, 0.9))
    assert "over 10 speakers. That is more than always the same label scores (0.333)" in sentence and not said
    targets = np.tile([0, 1], 12)
    sentence, said, _ = judge(predictions(targets, [f"s{i // 4}" for i in range(24)], 0.5, seed=3))
    assert "It is not shown to be more" in sentence and said == ["test has only 24 utterances."]


def test_few_or_unknown_or_unequal_speakers_are_said() -> None:
    targets = np.tile([0, 1], 60)
    sentence, said, _ = judge(predictions(targets, [f"s{i // 40}" for i in range(120)]))
    assert "There is no interval: it needs at least 4 units, found 3 speakers" in sentence
    assert "a test needs at least 6 units, found 3 speakers" in said[0]
    _, said, units = judge(predictions(targets, [""] * 120, 0.8))
    assert units.independent and "assume independent utterances" in said[0]
    dominant = ["big"] * 100 + [f"s{i}" for i in range(10)] * 2
    _, said, units = judge(predictions(targets, dominant, 0.8))
    assert f"11 speakers count as {group_units(dominant).effective:.1f}" in said[0]


def test_what_weakens_a_result_is_said() -> None:
    found = predictions(np.tile([0, 1], 100), [f"s{i // 20}" for i in range(200)], 0.9)
    data = run_of(
        found,
        features={"audio": "random, seed 0"},
        dropped={"test": {"neutral": 3}},
        selected_epoch=3,
        missing={"train": 5, "valid": 0},
    )
    units = speakers(found)
    said = "\n".join(warnings(data, units, {}))
    for part in (
        "audio encoder has random weights",
        "Left out of test: 3 neutral",
        "chosen epoch is the last one",
        "5 utterances of train left out: without features or usable audio",
    ):
        assert part in said
    assert "of valid left out" not in said


def test_faults_of_the_data_are_named_and_infos_are_not() -> None:
    found = predictions(np.tile([0, 1], 100), [f"s{i // 20}" for i in range(200)], 0.9)
    severities = {"speaker_overlap": "error", "few_speakers": "warning", "silent_audio": "warning", "empty": "info"}
    findings = [{"id": name, "severity": severity} for name, severity in severities.items()]
    units = speakers(found)
    said = warnings(replace(run_of(found), findings=findings), units, {})
    wanted = "1 error and 2 warnings, explained below: speaker_overlap, few_speakers, silent_audio."
    assert said == [f"The data has {wanted}"]
    assert warnings(replace(run_of(found), findings=findings[3:]), units, {}) == []
