"""Prefetch: threads call a function on items ahead of the caller, who gets the results in order.

A thread may have a process that decodes for it, and waits for it without Python's lock: several
threads read audio at once. A thread that waits forever for a file is left behind, and another one takes its
place.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from threadpoolctl import threadpool_limits

from features.audio.resampling import SAMPLE_RATE
from features.errors import InputError
from features.signals import check_interrupted

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_BYTES = 256 << 20
"""Bytes of samples that are read ahead; a single item may have more."""
SAMPLE_BYTES = 4
"""Bytes of a sample, float32."""
MAX_ITEMS = 1024
"""Number of items that are read ahead."""
LIMIT_S = 300.0
"""Seconds within which an item must be read; for longer audio, its duration.

A segment of a recording of several hours may wait until the whole recording is decoded."""
MAX_STUCK = 16
"""Number of threads that may be left behind: then the disk is at fault, not single files."""
POLL_S = 0.25
"""Interval between looks at signals and at the clock while the caller waits."""
CLOSE_S = 5.0
"""Maximum number of seconds that `close` waits for the items being read."""


class NoResultError(Exception):
    """An item that was not read in time, or whose thread ended."""


@dataclass(eq=False)
class Task(Generic[Item, Result]):
    """An item, and its result once there is one."""

    item: Item
    limit_s: float
    """Seconds within which it must be read."""
    num_bytes: int
    """Estimated bytes of the result, and the real ones once it is there."""
    started: float | None = None
    """Time at which a thread began with it."""
    thread: threading.Thread | None = None
    """The thread that began with it."""
    result: Result | None = None
    error: BaseException | None = None
    done: bool = False
    abandoned: bool = False
    """It took too long, and another thread has taken the place of its own."""
    removed: bool = False
    """It was taken or dropped."""

    @property
    def left_s(self) -> float:
        """Seconds that are left to read it."""
        return self.limit_s if self.started is None else self.started + self.limit_s - time.monotonic()


NEVER = Task[Any, Any](None, math.inf, 0)
"""An item that is never read."""


class Prefetch(Generic[Item, Result]):
    """Results of a function for items, in the order of the items.

    `workers` threads call it ahead of `take`; with 0, `take` calls it. The items that are read ahead
    are bounded in number and in bytes, which `size_of` a result tells. `abandon` receives a thread
    that is left behind. An item without a duration must be read within `unknown_limit_s`.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        workers: int,
        size_of: Callable[[Result], int],
        while_waiting: Callable[[], object] = check_interrupted,
        abandon: Callable[[threading.Thread], object] = lambda thread: None,
        unknown_limit_s: float = math.inf,
    ) -> None:
        self._function, self._workers, self._size_of = function, workers, size_of
        self._while_waiting, self._abandon, self._unknown_limit_s = while_waiting, abandon, unknown_limit_s
        self._tasks: deque[Task[Item, Result]] = deque()
        """In order, what was added and not taken."""
        self._waiting: deque[Task[Item, Result]] = deque()
        """Of these, in order, those that no thread has begun with."""
        self._threads: set[threading.Thread] = set()
        self._num_bytes = 0
        """Bytes of the items that a thread has begun with and that were not taken."""
        self._num_reading, self._num_stuck = 0, 0
        self._closed, lock = False, threading.Lock()
        # two conditions, because a thread that wakes up for nothing takes Python's lock from the others
        self._changed = threading.Condition(lock)
        """The items that the caller waits for were read."""
        self._awaited: set[Task[Any, Any]] = set()
        """Those of them that are not read yet."""
        self._may_read = threading.Condition(lock)
        """There are items to read, or there is room for them."""

    def add(self, items: Iterable[tuple[Item, float | None]]) -> None:
        """Add items, each with its seconds of audio (None if unknown); RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("nothing can be read after close()")
        with self._changed:
            for item, seconds in items:
                limit_s = self._unknown_limit_s if seconds is None else max(LIMIT_S, seconds)
                task: Task[Item, Result] = Task(item, limit_s, round((seconds or 0) * SAMPLE_RATE) * SAMPLE_BYTES)
                self._tasks.append(task)
                self._waiting.append(task)
            self._may_read.notify_all()
        while len(self._threads) < self._workers:
            self._start_thread()

    def take(self) -> Result:
        """Return the result of the next item, or raise the exception of the function.

        NoResultError if it took too long or its thread ended, InputError if many took too long,
        whatever `while_waiting` raises: by default KeyboardInterrupt after Ctrl-C.
        """
        task = self._tasks[0]
        if not self._workers:
            self.drop(1)
            return self._function(task.item)
        with self._changed:
            self._wait_for_next(1)
            task.abandoned = not task.done
            self._remove_next()
            self._wake_one()
        if task.abandoned:
            self._replace_thread(task)
            raise NoResultError(f"it was not read within {task.limit_s:.0f} s")
        if isinstance(task.error, Exception):
            raise task.error
        if task.error is not None:  # for example SystemExit, raised by a library
            raise NoResultError(f"its thread ended with {type(task.error).__name__}")
        return task.result  # type: ignore[return-value]

    def wait_for_next(self, count: int) -> None:
        """Wait until the next `count` items are read, as long as there is room and time; wake up once, not for each.

        Raises whatever `while_waiting` raises.
        """
        with self._changed:
            self._wait_for_next(count if self._workers else 0)

    def is_ready(self, count: int) -> bool:
        """Tell whether `take` would return the next items without waiting."""
        with self._changed:
            return not self._unread(count)

    def wait(self, count: int | None, is_over: Callable[[], bool]) -> None:
        """Wait until the next `count` items are read or `is_over`, at most for `POLL_S` seconds.

        With None, wait for `is_over` only; `wake` makes this method look at it again.
        """
        with self._changed:
            self._changed.wait_for(lambda: is_over() or self._has_read(count), POLL_S)

    def wake(self) -> None:
        """Let `wait` look at its `is_over` (from any thread)."""
        with self._changed:
            self._changed.notify()

    def drop(self, count: int) -> None:
        """Remove the next items, whether they are read or not."""
        with self._changed:
            for _ in range(count):
                self._remove_next()
            self._wake_one()

    def forgive(self) -> None:
        """Do not count the last item that was not read among those that are too many."""
        self._num_stuck -= 1

    def close(self) -> None:
        """Stop the threads; those that are stuck stay behind."""
        with self._changed:
            self._closed = True
            self._may_read.notify_all()
        deadline = time.monotonic() + CLOSE_S
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _wait_for_next(self, count: int) -> None:
        while self._will_read(unread := self._unread(count)):
            self._awaited = unread
            self._changed.wait(min(POLL_S, *(task.left_s for task in unread)))
            if self._awaited:
                self._while_waiting()

    def _will_read(self, unread: Collection[Task[Any, Any]]) -> bool:
        """Tell whether a thread reads some of these items or can begin with one, and none of them took too long."""
        if any(task.left_s <= 0 for task in unread):
            return False
        return any(task.started is not None for task in unread) or (bool(unread) and self._may_begin())

    def _has_read(self, count: int | None) -> bool:
        """Tell whether the next `count` items are read; if not, the last one of them to be read notifies."""
        self._awaited = set() if count is None else self._unread(count)
        return count is not None and not self._awaited

    def _unread(self, count: int) -> set[Task[Any, Any]]:
        """Return those of the next `count` items that are not read, with `NEVER` if fewer were added."""
        unread = {task for task in islice(self._tasks, count) if not task.done}
        return unread if len(self._tasks) >= count else {*unread, NEVER}

    def _remove_next(self) -> None:
        task = self._tasks.popleft()
        task.removed = True
        if task.started is not None:
            self._num_bytes -= task.num_bytes
        elif self._waiting:  # with 0 workers too, it is the first one
            self._waiting.popleft()

    def _replace_thread(self, task: Task[Item, Result]) -> None:
        """Start a thread in place of the one that is stuck in a task; InputError if too many are."""
        self._threads = {thread for thread in self._threads if thread is not task.thread}
        if task.thread is not None:
            self._abandon(task.thread)
        self._num_stuck += 1
        if self._num_stuck > MAX_STUCK:
            raise InputError(
                f"{self._num_stuck} files were not read within {task.limit_s:.0f} s each: the disk or the network file "
                "system does not answer. Finished work is kept, and the same command resumes"
            )
        self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, daemon=True, name="mervn-read")
        thread.start()  # RuntimeError if the system allows no further thread
        self._threads.add(thread)

    def _work(self) -> None:
        """Read one item after the other (in a thread)."""
        # Several threads that each use all cores would be slower. torch.set_num_threads would also
        # change the other threads, and with them the encoder's numbers.
        torch.get_num_threads()  # torch sets its default at the first call in a thread
        threadpool_limits(1, "openmp")
        while (task := self._begin_next()) is not None:
            size = 0
            try:
                task.result = self._function(task.item)
                size = self._size_of(task.result)
            except BaseException as error:
                task.error = error
            with self._changed:
                task.done = True
                if not task.removed:
                    self._num_bytes += size - task.num_bytes
                    task.num_bytes = size
                self._num_reading -= 1
                if task in self._awaited:
                    self._awaited.remove(task)
                    if not self._awaited or not (self._num_reading or self._may_begin()):
                        self._changed.notify()
                if task.abandoned:
                    return

    def _begin_next(self) -> Task[Item, Result] | None:
        """Wait until the next item may be read, and return it; None at the end."""
        with self._changed:
            self._may_read.wait_for(lambda: self._closed or self._may_begin())
            if self._closed:
                return None
            task = self._waiting.popleft()
            task.started, task.thread = time.monotonic(), threading.current_thread()
            self._num_bytes += task.num_bytes
            self._num_reading += 1
            self._wake_one()
            return task

    def _wake_one(self) -> None:
        """Wake a thread if it can begin with an item; it wakes the next one."""
        if self._may_begin():
            self._may_read.notify()

    def _may_begin(self) -> bool:
        """Tell whether the next item fits into the bounds; the first of all always does."""
        num_begun = len(self._tasks) - len(self._waiting)
        if not self._waiting or num_begun >= MAX_ITEMS:
            return False
        return num_begun == 0 or self._num_bytes + self._waiting[0].num_bytes <= MAX_BYTES
