"""Process that trains the cells of a study: reads one per line from stdin, answers on stdout.

Nothing heavy is imported before the process watches for the end of its parent.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mervn.training.setup import StoredData

INTERRUPTED = 130
"""Exit code of a process that Ctrl-C or SIGTERM ended."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a cell: its run is complete, it failed, or its process was interrupted."""

    name: str
    error: str | None = None
    """Why it failed; None if its run is complete."""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object; `Outcome(**object)` is the inverse."""
        return asdict(self)


class CellTrainer:
    """Trains cells one after the other; features stay open while the next cell reads the same."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._features: str | None = None
        self._opened: StoredData | None = None

    def attempt(self, name: str, options: Mapping[str, Any], features: str) -> Outcome:
        """Train a cell; an error becomes part of the outcome, so that the other cells continue."""
        from features.errors import InputError

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self._train(options, features)
                error = None
            except InputError as found:
                error = str(found)
            except Exception as found:
                error = f"{type(found).__name__}: {found}"
        said = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        return Outcome(name, error, said)

    def _train(self, options: Mapping[str, Any], features: str) -> None:
        from features.progress import SILENT
        from mervn.config import TrainHeadOptions
        from mervn.training.setup import open_stored_data, resolve_head_options
        from mervn.training.train_head import train_on

        # the grid may give options that this cell does not read, so none counts as given
        resolved = resolve_head_options(TrainHeadOptions.model_validate(options).with_general(options))
        if self._opened is None or features != self._features:
            self._opened, self._features = None, None  # release the former ones first
            self._opened, self._features = open_stored_data(resolved, self.data, SILENT), features
        train_on(self._opened, resolved, SILENT)


def main() -> None:
    """Train the cells that stdin names, until it ends.

    Arguments: the data folder and the number of threads.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed is no answer
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(waiting,), daemon=True).start()
    try:
        from features.cpu_threads import set_threads

        set_threads(int(sys.argv[2]))
        trainer = CellTrainer(Path(sys.argv[1]))
        while True:
            answers.write(json.dumps(trainer.attempt(**waiting.get()).as_json()) + "\n")
            answers.flush()
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


def _receive(waiting: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Put each line of stdin into a queue; end this process when stdin ends.

    stdin ends when the parent has no more cells, or when it was killed.
    """
    for line in sys.stdin:
        waiting.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
