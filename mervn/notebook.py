"""Functions of `import mervn` that take keywords instead of options objects and return plain dicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from features.atomic_files import read_object
from features.config import Options
from features.errors import UsageError
from mervn.config import CompareOptions, EvaluateOptions, TrainHeadOptions
from mervn.run_folder import METRICS_FILE, read_config, read_metrics

OptionsT = TypeVar("OptionsT", bound=Options)


def train_head(data: str | Path, **options: Any) -> dict[str, Any]:
    """Train a head on the stored features of a data folder, as `mervn train-head` does.

    `options` are those of the command, with underscores. Returns the folder of the run and its
    scores on valid.
    """
    from mervn.training.train_head import train_head as train

    result = train(_checked(TrainHeadOptions, options), Path(data))
    return {"run": str(result.path), "trained": result.trained, "metrics": dict(result.metrics)}


def evaluate(run: str | Path, **options: Any) -> dict[str, Any]:
    """Score a run on a split, as `mervn evaluate` does, and return its metrics.

    `options` are those of the command; `split` is valid unless given. A look at test is recorded.
    """
    from mervn.evaluation.evaluate import evaluate as score

    return score(Path(run), _checked(EvaluateOptions, options))


def compare(a: str | Path, b: str | Path, **options: Any) -> dict[str, Any]:
    """Compare the saved predictions of two runs or series, as `mervn compare` does.

    `options` are those of the command; `split` is test unless given. Returns the difference with
    its interval, p and the verdict as a sentence. Nothing is scored or written.
    """
    from mervn.evaluation.compare import compare as find_difference
    from mervn.evaluation.verdict import document

    return dict(document(find_difference(Path(a), Path(b), _checked(CompareOptions, options))))


def results(run: str | Path) -> dict[str, Any]:
    """Return what a run has recorded: options, labels, metrics and predictions; nothing is computed.

    `training` holds the metrics of the training, `metrics` and `predictions` those of each split that
    was evaluated. Raises UsageError if the folder is not a run, InputError if a file is damaged.
    """
    from mervn.evaluation.saved_predictions import evaluate_command, predictions_path, read_entries

    path = Path(run)
    config = read_config(path)
    found: dict[str, Any] = {
        "run": str(path),
        "command": config.command,
        "options": dict(config.options),
        "labels": list(config.labels),
        "training": dict(read_metrics(path)) if (path / METRICS_FILE).is_file() else None,
        "metrics": {},
        "predictions": {},
    }
    for split in ("train", "valid", "test"):
        file = path / f"metrics-{split}.json"
        if file.is_file():
            found["metrics"][split] = read_object(file, "the metrics of a run")
        if predictions_path(path, split).is_file():
            command = evaluate_command(path, split)
            found["predictions"][split] = read_entries(predictions_path(path, split), split, command, config.labels)
    return found


def _checked(model: type[OptionsT], values: dict[str, Any]) -> OptionsT:
    """Return the options; UsageError lists every one that is unknown or invalid."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = []
        for detail in error.errors():
            name = ".".join(map(str, detail["loc"])) or "options"
            faults.append(f"{name}: {detail['msg']}, found {detail['input']!r}")
        raise UsageError("\n".join(faults)) from error
