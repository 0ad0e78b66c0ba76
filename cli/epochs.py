"""Lines about the epochs of a training: scores, time left, and a warning if valid is small."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from features.durations import duration

ESTIMATE_AFTER_S = 5.0
"""Seconds of training, after the first batch, before the time of all epochs is estimated."""
WIDE_INTERVAL = 0.05
"""Half-width of the accuracy's confidence interval above which valid counts as small."""


def classification_scores(entry: Mapping[str, Any]) -> str:
    """Return the scores on valid of an epoch of train-head or finetune."""
    return f"valid macro-F1 {entry['valid']['macro_f1']:.4f}"


class EpochLog:
    """Describes each epoch of a training of at most `total` epochs, and estimates its duration."""

    def __init__(
        self, total: int | None = None, scores: Callable[[Mapping[str, Any]], str] = classification_scores
    ) -> None:
        self.total, self.scores = total, scores
        self.entries: list[Mapping[str, Any]] = []
        """History entries of the current run's epochs, as far as this process trained them."""
        self.estimated = False

    def line(self, entry: Mapping[str, Any]) -> str:
        """Return the line about an epoch."""
        if self.entries and entry["epoch"] <= self.entries[-1]["epoch"]:
            self.entries.clear()  # the next seed or fold of a series
        self.entries.append(entry)
        found = f"{self.scores(entry)} (best: epoch {entry['best_epoch']}), {duration(entry['seconds'])}"
        if entry["epoch"] == 0:
            return f"epoch 0, initial model: {found}"
        name = f"epoch {entry['epoch']}" + (f"/{self.total}" if self.total is not None else "")
        left = self._left(entry)
        return f"{name}: loss {entry['train_loss']:.4f}, {found}" + (f", at most {duration(left)} left" if left else "")

    def _left(self, entry: Mapping[str, Any]) -> float:
        """Return the maximum number of seconds left; 0 if it is not known."""
        if "seconds_left" in entry:
            return float(entry["seconds_left"])
        epochs_left = self.total - int(entry["epoch"]) if self.total is not None else 0
        return epochs_left * self.seconds_per_epoch

    @property
    def trained(self) -> list[Mapping[str, Any]]:
        """The entries of the epochs that were trained; epoch 0 is only scored."""
        return [entry for entry in self.entries if entry["epoch"] > 0]

    @property
    def seconds_per_epoch(self) -> float:
        """Mean seconds of a trained epoch."""
        return fmean(entry["seconds"] for entry in self.trained)

    def summary(self) -> str:
        """Return the number of trained epochs and their mean time."""
        count = "1 epoch" if len(self.trained) == 1 else f"{len(self.trained)} epochs"
        return f"{count}, {duration(self.seconds_per_epoch)} per epoch"

    def timed(self, bar: Any, total: int, what: str, say: Callable[[str], None]) -> Any:
        """Return a progress bar that prints an estimate for all epochs, once.

        A bar that is not one of a training epoch is returned unchanged.
        """
        if self.total is None or self.estimated or not what.startswith("epoch "):
            return bar
        first = self.entries[0] if self.entries else {"epoch": 1}
        scoring = first["seconds"] if first["epoch"] == 0 else 0.0  # epoch 0 only scores valid

        def tell(rate: float) -> None:
            self.estimated = True
            seconds = total / rate + scoring
            say(f"estimate: {duration(seconds)} per epoch, at most {duration(seconds * (self.total or 0))} in all")

        return TimedBar(bar, tell)

    def small_valid_warning(self, valid: Mapping[str, Any]) -> str | None:
        """Return a warning if the accuracy on valid is too uncertain to tell the epochs apart.

        None if it is not, or if this process did not train the best epoch.
        """
        accuracies = {entry["epoch"]: entry["valid"]["accuracy"] for entry in self.entries}
        accuracy, count = accuracies.pop(self.entries[-1]["best_epoch"], None), valid["n"]
        if accuracy is None:  # the best epoch was trained before this process resumed the run
            return None
        half = half_width(accuracy, count)
        near = sum(abs(other - accuracy) <= half for other in accuracies.values())
        if half <= WIDE_INTERVAL or not near or len(accuracies) < 2:  # one epoch: nothing was chosen
            return None
        return (
            f"warning: valid has only {count} utterances: its accuracy {accuracy:.2f} has a 95 % "
            f"interval of ± {half:.2f}, which cannot tell {near} of the {len(accuracies)} other "
            "epochs from the best one; a larger valid split, or the mean over folds, chooses more "
            "reliably"
        )


class TimedBar:
    """Progress bar that measures the rate of its updates once, from the first update on."""

    def __init__(self, bar: Any, tell: Callable[[float], None]) -> None:
        self.bar, self.tell = bar, tell
        self.started: float | None = None
        self.count, self.told = 0, False

    def update(self, count: int) -> None:
        """Advance the bar."""
        self.bar.update(count)
        now = time.monotonic()
        if self.started is None:  # the first batch also warms up caches and the GPU
            self.started = now
            return
        self.count += count
        if not self.told and now - self.started >= ESTIMATE_AFTER_S:
            self.told = True
            self.tell(self.count / (now - self.started))

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Show a text behind the bar."""
        self.bar.set_postfix_str(text, refresh=refresh)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


def half_width(accuracy: float, count: int) -> float:
    """Return half the width of the 95 % Wilson interval of an accuracy over `count` utterances."""
    z = 1.96
    spread = math.sqrt(accuracy * (1 - accuracy) / count + z**2 / (4 * count**2))
    return z * spread / (1 + z**2 / count)
