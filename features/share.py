"""One process's share of a plan: the units it can claim, one after another, until none is left to anyone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from features.interruption import check_interrupted
from features.plan import Plan
from features.store.claims import Claims
from features.store.identity import StoreInfo
from features.store.reader import FeatureStore
from features.work import Engine, Unit, UnitResult

WAIT_S = 1.0
"""How long to wait before looking again at units that other processes hold."""


class Share:
    """Hands the pending units of a plan (or of the I-th of N shards of it) to an engine as they can be claimed."""

    def __init__(self, plan: Plan, infos: Sequence[StoreInfo], claims: Claims, shard: tuple[int, int] = (1, 1)) -> None:
        self.plan, self.claims = plan, claims
        self.stores = [FeatureStore(info.path) for info in infos]
        number, count = shard
        self._open = {plan.unit_name(unit): unit for unit in plan.units[number - 1 :: count]}
        self._planned = plan.pending

    def through(
        self, engine: Engine, say: Callable[[str], None], update: Callable[[int], object]
    ) -> Iterator[UnitResult]:
        """Yield the result of every unit that this process did, until all are committed, by whomever.

        `update` is called with the number of utterances that have got their rows.
        """
        running: dict[str, int] = {}
        waited = False
        self._close_committed(update)
        while self._open or running:
            check_interrupted()
            while len(running) < engine.capacity and (unit := self._claim(running, update)) is not None:
                running[unit.name] = self._size(unit.name)
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
                self.claims.release(result.name)
                self._open.pop(result.name)
                update(running.pop(result.name))
                yield result
        for store in self.stores:
            store.refresh()

    def _claim(self, running: dict[str, int], update: Callable[[int], object]) -> Unit | None:
        """Return the next unit that is claimed and lacks rows; what others have committed meanwhile is closed."""
        for name in [name for name in self._open if name not in running]:
            if not self.claims.take(name):
                continue
            for store in self.stores:
                store.refresh()
            unit = self._pending(name)
            if unit is not None:
                return unit
            self._close(name, update)
            self.claims.release(name)
        return None

    def _pending(self, name: str) -> Unit | None:
        """Return what a unit still lacks, by now; None if nothing."""
        plan, unit = self.plan, self._open[name]
        wanted = [
            {i for batch in unit for i in batch if target.lacks(i, plan.utterances[i], store)}
            for target, store in zip(plan.targets, self.stores, strict=True)
        ]
        needed: set[int] = set().union(*wanted)
        batches = [[plan.utterances[i] for i in batch] for batch in unit if not needed.isdisjoint(batch)]
        names = [{plan.utterances[i].utterance_id for i in some} for some in wanted]
        return Unit(name, batches, names) if batches else None

    def _close_committed(self, update: Callable[[int], object]) -> None:
        for store in self.stores:
            store.refresh()
        for name in list(self._open):
            if self._pending(name) is None:
                self._close(name, update)

    def _close(self, name: str, update: Callable[[int], object]) -> None:
        update(self._size(name))
        self._open.pop(name)

    def _size(self, name: str) -> int:
        """Return how many utterances of a unit were pending at first."""
        return sum(i in self._planned for batch in self._open[name] for i in batch)
