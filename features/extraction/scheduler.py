"""Scheduler: claims units for this process and passes them to an engine.

The scheduling work is linear in the number of units. Committed utterances are counted once, when
their parts appear. Units are claimed in rounds that become smaller towards the end, and each round
lists the folders once (guided self-scheduling: Polychronopoulos and Kuck 1987).
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, compress, islice

import numpy as np

from features.counts import counted
from features.extraction.plan import Plan
from features.extraction.unit import Unit, UnitResult
from features.extraction.units import as_mask
from features.extraction.worker import Destination, Engine
from features.hash_index import HashIndex, hashes_of
from features.manifests.columns import Array
from features.manifests.utterance import Utterance
from features.manifests.utterances import id_reader
from features.progress import Reporter
from features.signals import check_interrupted
from features.store.claims import Claims
from features.store.identity import StoreInfo
from features.store.reader import FeatureStore
from features.store.rejected import Rejections, append_rejected

FIRST_WAIT_S, WAIT_S = 0.02, 1.0
"""Interval between looks at units that other processes hold: it doubles up to the second value. Processes
that share the work evenly wait for each other briefly."""
ROUNDS = 64
"""A round claims 1 / ROUNDS of the open units, rounded up: as many processes can share the work evenly. Each
round lists the store, which takes longer the more parts it has."""
LOOK_AHEAD = 64
"""Maximum number of units to look at for the one to claim next."""


class Scheduler:
    """Claims the pending units of a plan, or of one shard of it, and passes them to an engine.

    What it knows about single utterances is in arrays, without a Python object for each.
    """

    def __init__(
        self, plan: Plan, destinations: Sequence[Destination], claims: Claims, shard: tuple[int, int] = (1, 1)
    ) -> None:
        self.plan, self.claims = plan, claims
        self.infos: list[StoreInfo] = []
        self.stores: list[FeatureStore] = []
        self.rejections: list[Rejections] = []
        for destination, target in zip(destinations, plan.targets, strict=True):
            info = destination.info
            self.infos.append(info)
            self.stores.append(target.opened or FeatureStore(info.path))
            self.rejections.append(Rejections(info.path))
        self._units = plan.shard(*shard)
        self._owners = self._units.owners(len(plan.utterances))
        """Number of the unit of each utterance, (N,) int32; -1 if it is in none of this shard."""
        self._lacking: list[Array] = []
        """For each store a mask (N,) of the utterances that no process has committed or rejected yet."""
        for target in plan.targets:
            self._lacking.append(as_mask(target.pending, len(plan.utterances)) & (self._owners >= 0))
        self._num_lacking = [self._by_unit(lacking) for lacking in self._lacking]
        """For each store the number of these utterances by unit."""
        is_pending = np.logical_or.reduce(self._lacking)
        self._num_pending = self._by_unit(is_pending)
        """Number of utterances by unit that were pending at first."""
        pending, id_of = np.flatnonzero(is_pending).astype(np.int32), id_reader(plan.utterances)
        self._index = HashIndex.sort(hashes_of(map(id_of, pending.tolist())), pending, id_of)
        """Finds pending utterances by id."""
        self._names: dict[int, str] = {}
        """The names of the units that are not committed yet, by number."""
        for number in np.flatnonzero(self._num_pending).tolist():
            self._names[number] = plan.unit_name(self._units[number])
        self._open = {name: number for number, name in self._names.items()}
        """The numbers of these units by name."""
        self._order: deque[str] = deque(self._open)
        """Units to claim next."""
        self._wait_s = FIRST_WAIT_S
        self._claimed: deque[str] = deque()
        """Claimed units that the engine has not received yet."""
        self._held: set[str] = set()
        """Units that other processes held at the last look."""

    def _by_unit(self, chosen: Array) -> list[int]:
        """Return the number of utterances of each unit that a mask (N,) chooses."""
        counts: list[int] = np.bincount(self._owners[chosen], minlength=len(self._units)).tolist()
        return counts

    def run(self, engine: Engine, reporter: Reporter, update: Callable[[int], object]) -> Iterator[UnitResult]:
        """Yield the results of units encoded here, until all units are committed.

        `update` is called with the number of utterances that are committed or rejected.
        """
        running: set[str] = set()
        announced = False
        self._start_apart_from_others()
        if self._open:
            self._close_committed(update, everything=True)
        while self._open or running:
            check_interrupted()
            while len(running) < engine.capacity and (unit := self._claim(update)) is not None:
                running.add(unit.name)
                engine.submit(unit)
                upcoming = self._upcoming()
                if upcoming is not None:
                    engine.prepare(upcoming)
            if running:
                for result in engine.collect():
                    self._finish(result, update)
                    running.remove(result.name)
                    yield result
            elif self._open:
                if not announced:
                    self._announce_wait(reporter)
                    announced = True
                self._wait(update)
        for store in self.stores:
            store.refresh()

    def committed(self, number: int, utterance_ids: Sequence[str]) -> set[str]:
        """Return which of these utterances store `number` has by now, from this process or another one."""
        target = self.plan.targets[number]
        if utterance_ids:  # an interrupted run has not looked at the end
            self.stores[number].refresh()
        indices, names = [], []
        for name, i in zip(utterance_ids, self._index.find(utterance_ids).tolist(), strict=True):
            if i >= 0 and i not in target.settled:
                indices.append(i)
                names.append(name)
        uncommitted = target.uncommitted(indices, names, self.stores[number])
        return {name for name, is_uncommitted in zip(names, uncommitted, strict=True) if not is_uncommitted}

    def _finish(self, result: UnitResult, update: Callable[[int], object]) -> None:
        """Record the rejections of a unit, then release it: other processes must know them."""
        for info in self.infos:
            append_rejected(info, result.rejected)
        self.claims.release(result.name)
        self._close(result.name, update)

    def _announce_wait(self, reporter: Reporter) -> None:
        holders = ", ".join(self.claims.holders(self._open)) or "another process"
        reporter.say(f"  waiting for {counted(len(self._open), 'unit')} that {holders} has claimed")

    def _wait(self, update: Callable[[int], object]) -> None:
        time.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, WAIT_S)
        self.claims.sweep()
        self._close_committed(update)

    def _start_apart_from_others(self) -> None:
        """Start at a random unit if other processes are running.

        The first process starts with the longest units.
        """
        if self._order and self.claims.held():
            self._order.rotate(-(zlib.crc32(self.claims.token.encode()) % len(self._order)))

    def _claim(self, update: Callable[[int], object]) -> Unit | None:
        """Return the next claimed unit that is not committed.

        None if other processes hold all open units.
        """
        while self._claimed or self._claim_round(update):
            name = self._claimed.popleft()
            if name in self._open:
                return self._unit(name)
            self.claims.release(name)  # another process committed it after it was claimed here
        return None

    def _claim_round(self, update: Callable[[int], object]) -> bool:
        """Claim some open units, then close those that others had committed before."""
        self._held = self.claims.held()
        wanted = -(-len(self._open) // ROUNDS)  # division rounded up
        for _ in range(len(self._order)):
            name = self._order.popleft()
            if name not in self._open:
                continue
            if name not in self._held and self.claims.take(name):
                self._claimed.append(name)
            else:
                self._order.append(name)
            if len(self._claimed) == wanted:
                break
        if self._claimed:
            self._close_committed(update)
        return bool(self._claimed)

    def _upcoming(self) -> Unit | None:
        """Return the unit that this process will probably claim next.

        It is not claimed: another process that has nothing else to do can take it.
        """
        for name in chain(self._claimed, islice(self._order, LOOK_AHEAD)):
            if name in self._open and name not in self._held:
                return self._unit(name)
        return None

    def _unit(self, name: str) -> Unit:
        """Return the batches of an open unit that hold lacking utterances.

        A batch is encoded whole.
        """
        utterances, sizes = self.plan.utterances, self.plan.sizes
        batches: list[list[Utterance]] = []
        wanted: list[set[str]] = [set() for _ in self._lacking]
        seconds = dict[str, float]()
        for indices in self._units[self._open[name]]:
            lacking = [mask[indices] for mask in self._lacking]
            if not np.any(lacking):
                continue
            batch = [utterances[i] for i in indices]
            batches.append(batch)
            for ids, mask in zip(wanted, lacking, strict=True):
                ids.update(utterance.utterance_id for utterance in compress(batch, mask))
            if self.plan.modality == "audio":
                seconds |= {each.utterance_id: sizes[i] for each, i in zip(batch, indices, strict=True)}
        return Unit(name, batches, wanted, seconds)

    def _close_committed(self, update: Callable[[int], object], *, everything: bool = False) -> None:
        """Close every unit that has become complete since the last look, claimed or not.

        With `everything`, look at all stored utterances: others may have committed some since the
        plan was made.
        """
        complete: dict[str, None] = {}  # an ordered set
        for number, (store, rejections) in enumerate(zip(self.stores, self.rejections, strict=True)):
            for source in (store, rejections):
                added = source.refresh()
                complete |= dict.fromkeys(self._settle(number, list(source) if everything else added))
        # closed after the loop: a unit is complete only if all stores have it
        for name in complete:
            self._close(name, update)

    def _close(self, name: str, update: Callable[[int], object]) -> None:
        """Remove a unit from the open ones, if a look at the stores has not done so before."""
        number = self._open.pop(name, None)
        if number is not None:
            del self._names[number]
            update(self._num_pending[number])

    def _settle(self, number: int, utterance_ids: Sequence[str]) -> list[str]:
        """Remove utterances that a store no longer lacks; return the units that become complete."""
        lacking, complete = self._lacking[number], []
        for i in self._no_longer_lacking(number, utterance_ids):
            unit = int(self._owners[i])
            lacking[i] = False
            self._num_lacking[number][unit] -= 1
            if not any(counts[unit] for counts in self._num_lacking):
                complete.append(self._names[unit])
        return complete

    def _no_longer_lacking(self, number: int, utterance_ids: Sequence[str]) -> Iterator[int]:
        """Yield those of these utterances that a store lacked and that are committed or rejected now."""
        target, found = self.plan.targets[number], dict[int, str]()  # two parts can hold an utterance
        for i, name in zip(self._index.find(utterance_ids).tolist(), utterance_ids, strict=True):
            # -1: not pending, or of another shard
            if i >= 0 and self._lacking[number][i] and int(self._owners[i]) in self._names:
                found[i] = name
        uncommitted = target.uncommitted(list(found), list(found.values()), self.stores[number])
        for i, is_uncommitted in zip(found, uncommitted, strict=True):
            if not is_uncommitted or self._is_rejected(number, self.plan.utterances[i]):
                yield i

    def _is_rejected(self, number: int, utterance: Utterance) -> bool:
        """Tell whether the current input of an utterance was rejected."""
        return self.rejections[number].settled(utterance, self.plan.modality) is not None
