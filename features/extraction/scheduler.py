"""The units of a plan that fall to one process: claimed a few at a time, until none is left to anyone.

What a process does besides encoding grows linearly with the work: committed utterances are counted once, as the parts
that hold them appear, and claims are taken in rounds that get smaller towards the end, with one look at the folders
per round (guided self-scheduling: Polychronopoulos and Kuck 1987).
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from features.extraction.plan import Plan
from features.extraction.worker import Engine, Unit, UnitResult
from features.signals import check_interrupted
from features.store.claims import Claims
from features.store.identity import StoreInfo
from features.store.reader import FeatureStore
from features.store.rejected import Rejections, append_rejected

WAIT_S = 1.0
"""How long to wait before looking again at units that other processes hold."""
ROUNDS = 256
"""A round claims one in so many of the open units, rounded up."""


@dataclass
class OpenUnit:
    """A unit that is not committed yet."""

    batches: list[list[int]]
    size: int
    """How many of its utterances were pending at first."""
    lacking: list[set[int]]
    """For each store the utterances that nobody has committed or rejected yet."""


class Share:
    """Hands the pending units of a plan (or of the I-th of N shards of it) to an engine as they can be claimed."""

    def __init__(self, plan: Plan, infos: Sequence[StoreInfo], claims: Claims, shard: tuple[int, int] = (1, 1)) -> None:
        self.plan, self.claims, self._infos = plan, claims, list(infos)
        self.stores = [FeatureStore(info.path) for info in infos]
        self.rejections = [Rejections(info.path) for info in infos]
        self._open: dict[str, OpenUnit] = {}
        self._place: dict[str, tuple[str, int]] = {}
        number, count = shard
        for unit in plan.units[number - 1 :: count]:
            self._add(plan.unit_name(unit), unit)
        self._order: deque[str] = deque(self._open)
        self._claimed: deque[str] = deque()

    def _add(self, name: str, unit: list[list[int]]) -> None:
        indices = {i for batch in unit for i in batch}
        lacking = [indices & target.pending for target in self.plan.targets]
        pending = set().union(*lacking)
        if pending:
            self._open[name] = OpenUnit(unit, len(pending), lacking)
            self._place |= {self.plan.utterances[i].utterance_id: (name, i) for i in pending}

    def through(
        self, engine: Engine, say: Callable[[str], None], update: Callable[[int], object]
    ) -> Iterator[UnitResult]:
        """Yield the result of every unit that this process did, until all are committed, by whomever.

        `update` is called with the number of utterances that are committed or rejected.
        """
        running: set[str] = set()
        waited = False
        self._start_at_own_place()
        self._close_committed(update, everything=True)
        while self._open or running:
            check_interrupted()
            while len(running) < engine.capacity and (unit := self._claim(update)) is not None:
                running.add(unit.name)
                engine.submit(unit)
            if not running:
                if not self._open:
                    return
                if not waited:
                    holders = ", ".join(self.claims.holders(list(self._open))) or "another process"
                    say(f"  waiting for {len(self._open)} units that {holders} has claimed")
                    waited = True
                time.sleep(WAIT_S)
                self.claims.sweep()
                self._close_committed(update)
                continue
            for result in engine.collect():
                for info in self._infos:  # before the claim is released: the next process must know of them
                    append_rejected(info, result.rejected)
                self.claims.release(result.name)
                running.remove(result.name)
                self._close(result.name, update)
                yield result
        for store in self.stores:
            store.refresh()

    def _start_at_own_place(self) -> None:
        """Begin where no other process does; the first one begins with the longest utterances."""
        if self._order and self.claims.held():
            self._order.rotate(-(zlib.crc32(self.claims.token.encode()) % len(self._order)))

    def _claim(self, update: Callable[[int], object]) -> Unit | None:
        """Return the next unit that is claimed and lacks frames; None if other processes hold all that is open."""
        while self._claimed or self._claim_round(update):
            name = self._claimed.popleft()
            if name in self._open:
                return self._unit(name)
            self.claims.release(name)  # committed by another process while it waited here
        return None

    def _claim_round(self, update: Callable[[int], object]) -> bool:
        """Claim some open units that nobody holds, then close those that others had committed before."""
        held = self.claims.held()
        wanted = -(-len(self._open) // ROUNDS)
        for _ in range(len(self._order)):
            name = self._order.popleft()
            if name not in self._open:
                continue
            if name not in held and self.claims.take(name):
                self._claimed.append(name)
            else:
                self._order.append(name)
            if len(self._claimed) == wanted:
                break
        if self._claimed:
            self._close_committed(update)
        return bool(self._claimed)

    def _unit(self, name: str) -> Unit:
        """Return what a unit still lacks."""
        unit, utterances = self._open[name], self.plan.utterances
        needed: set[int] = set().union(*unit.lacking)
        batches = [[utterances[i] for i in batch] for batch in unit.batches if not needed.isdisjoint(batch)]
        return Unit(name, batches, [{utterances[i].utterance_id for i in some} for some in unit.lacking])

    def _close_committed(self, update: Callable[[int], object], *, everything: bool = False) -> None:
        """Close every unit that has become complete since the last look, claimed or not.

        With `everything` the look is at all that is there: others may have committed it since the plan was made.
        """
        complete: dict[str, None] = {}
        for number, (store, rejections) in enumerate(zip(self.stores, self.rejections, strict=True)):
            for source in (store, rejections):
                added = source.refresh()
                complete |= dict.fromkeys(self._settle(number, list(source) if everything else added))
        for name in complete:
            self._close(name, update)

    def _close(self, name: str, update: Callable[[int], object]) -> None:
        """Take a unit off the open ones; its rows may have been seen before the engine gave its result."""
        unit = self._open.pop(name, None)
        if unit is not None:
            update(unit.size)

    def _settle(self, number: int, utterance_ids: Iterable[str]) -> list[str]:
        """Take utterances off what a store lacks; return the units that lack nothing now."""
        target, complete = self.plan.targets[number], []
        for utterance_id in utterance_ids:
            name, i = self._place.get(utterance_id, ("", -1))
            unit = self._open.get(name)
            if unit is None or i not in unit.lacking[number]:
                continue
            if not target.lacks(i, self.plan.utterances[i], self.stores[number], self.rejections[number]):
                unit.lacking[number].discard(i)
                if not any(unit.lacking):
                    complete.append(name)
        return complete
