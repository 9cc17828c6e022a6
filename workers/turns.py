"""Whose turn it is on this device: by priority, deadline, tenant share, and what is loaded.

Each worker is fair by itself, and so is the whole of them: none needs to know of the others.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import floor
from typing import TypeVar
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine

from storage.ledger import backlog, claim
from storage.ledger.backlog import Backlog, Turn, Urgent
from storage.ledger.claim import Batch

LOOK_S = 1.0
"""How often a worker that stays on a key looks whether something presses more."""

LEAST_QUANTUM_S = 1.0
MOST_QUANTA_OWED = 4
"""A tenant waits no longer for what it had out of turn: to fill batches, or for a deadline."""

KEPT = 10_000
"""Of how many tenants, and keys, the last is remembered; a worker lives for months."""

ELIGIBLE_LOOKED_AT = 64
"""Of how many tenants whose turn is equally good a loaded key is looked for."""


class Shares:
    """Deficit round robin over tenants, in seconds of the device.

    The method is that of Shreedhar and Varghese, "Efficient fair queuing using deficit round-robin"
    (IEEE/ACM Transactions on Networking 4(3), 1996). In each round every tenant is granted a
    ``quantum_s``; as a batch's cost is known once it is made, and not before, it is charged then,
    and a tenant that has overdrawn its credit sits out rounds until that is paid.

    While two tenants have work, the times that they were given since both began differ by at most
    the quantum and the longest turn.
    """

    def __init__(self, quantum_s: float) -> None:
        self._quantum_s = quantum_s
        self._credit_s: dict[UUID, float] = {}
        """Of those that were served lately; all others have the whole quantum."""

    def spend(self, tenant_id: UUID, seconds: float) -> None:
        """Charge a tenant for time on the device."""
        left = min(self._of(tenant_id) - seconds, self._quantum_s)
        self._credit_s[tenant_id] = max(left, -MOST_QUANTA_OWED * self._quantum_s)

    def by_credit(self, tenants: Collection[UUID]) -> list[UUID]:
        """The tenants, who was served least first."""
        return sorted(tenants, key=self._of, reverse=True)

    def in_turn(self, tenants: Collection[UUID]) -> list[UUID]:
        """Those of ``tenants`` who have credit, by credit: any of them may be next.

        Where nobody has, as many rounds begin as it takes. Nobody saves up: what a tenant had no
        work for is gone.
        """
        found = self.by_credit(tenants)
        if found and self._of(found[0]) <= 0:
            rounds = floor(-self._of(found[0]) / self._quantum_s) + 1
            granted_s = rounds * self._quantum_s
            self._credit_s = {
                tenant_id: left_s + granted_s
                for tenant_id, left_s in self._credit_s.items()
                if left_s + granted_s < self._quantum_s
            }
        return [tenant_id for tenant_id in found if self._of(tenant_id) > 0]

    def _of(self, tenant_id: UUID) -> float:
        return self._credit_s.get(tenant_id, self._quantum_s)


K = TypeVar("K")
V = TypeVar("V")

Key = tuple[str, str]
"""A pool and a batch key."""


@dataclass
class _Pass:
    """A tenant's way through its keys: all up to ``at`` have had their time, as have ``early``."""

    at: Key
    early: set[Key] = field(default_factory=set)

    def has_had(self, key: Key) -> bool:
        return key <= self.at or key in self.early


class Turns:
    """Chooses each batch of one worker, and claims it.

    Priority comes before everything; then campaigns that close soon
    (`storage.ledger.backlog.DEADLINE_NEAR_S`), the earliest first; then the key in hand, for a time
    slice; then the tenants' shares. Whose turn that makes it takes what is loaded, if it has not
    had that already, or its next key. On a key batches are of whoever was served least, and filled
    with the jobs of the others.

    ``came_from`` is a key to begin with: to stay on for the first slice, or to go on from.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        worker: str,
        pools: Sequence[str],
        size: Callable[[str], int],
        lease_s: float,
        slice_s: float,
        came_from: Key | None = None,
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._pools = sorted(pools)
        self._size = size
        self._lease_s = lease_s
        self._slice_s = slice_s
        self._shares = Shares(max(slice_s, LEAST_QUANTUM_S))
        self._hand: Key | None = came_from
        self._since = time.monotonic()
        self.slices = 0
        """How many have begun: with each, what was learnt of a key is to be looked at again."""
        # By chance, so that idle workers spread out.
        self._start = came_from or (self._pools[0], uuid4().hex)
        self._passes: dict[UUID, _Pass] = {}
        self._after = uuid4()
        self._backlog: Backlog | None = None
        self._look_at = 0.0
        self._offered: tuple[Turn, _Pass | None] | None = None
        self._job_s: dict[str, float] = {}
        self._charged_s: dict[UUID, float] = {}

    def next(self, resident: Collection[str] = ()) -> Batch | None:
        """Claim the next batch; None: there is nothing to do.

        ``resident`` are the batch keys whose models are loaded, but for the one in hand.
        """
        stay = self._is_in_slice()
        batch = claim.claim(
            self._engine,
            worker=self._worker,
            size=self._size,
            lease_s=self._lease_s,
            turns=lambda connection: self._turns(connection, resident),
        )
        if batch is None:
            return None
        assert self._offered
        turn, way = self._offered
        self._expect(batch)
        key = (turn.pool, turn.batch_key)
        if key != self._hand or not stay:
            self._hand, self._since = key, time.monotonic()
            self.slices += 1
        if way:
            # Taken up behind the one that is in hand, or out of turn because it is loaded.
            remember(self._passes, turn.tenants[0], way)
        if len(batch.jobs) < self._size(batch.batch_key):
            self._backlog = None
        return batch

    def end_slice(self) -> None:
        """The key in hand has nothing to do just now: others come first."""
        self._since = -math.inf

    def spent(self, batch: Batch, seconds: float) -> None:
        """Charge the tenants of a batch for its time on the device, each for its jobs' part."""
        remember(self._job_s, batch.batch_key, seconds / len(batch.jobs))
        self._charge(batch, seconds - self._charged_s.pop(batch.claim_id, 0.0))

    def given_back(self, batch: Batch) -> None:
        """The batch was not made: nobody is charged for it."""
        self._charge(batch, -self._charged_s.pop(batch.claim_id, 0.0))

    def _expect(self, batch: Batch) -> None:
        """Charge for what the last batch of its key had: others are claimed before it is made."""
        seconds = self._job_s.get(batch.batch_key, 0.0) * len(batch.jobs)
        self._charged_s[batch.claim_id] = seconds
        self._charge(batch, seconds)

    def _charge(self, batch: Batch, seconds: float) -> None:
        jobs = Counter(job.tenant_id for job in batch.jobs)
        for tenant_id, count in jobs.items():
            self._shares.spend(tenant_id, seconds * count / len(batch.jobs))

    def _is_in_slice(self) -> bool:
        return self._hand is not None and time.monotonic() - self._since < self._slice_s

    def _turns(self, connection: Connection, resident: Collection[str]) -> Iterator[Turn]:
        """What to try to claim, best first."""
        # What was seen is good for one claim: that may look again because of what it met.
        seen, self._backlog = self._backlog, None
        if seen and self._is_in_slice() and time.monotonic() < self._look_at:
            self._backlog = seen
            yield from self._pressing(seen, resident)
            self._backlog = None
        found = backlog.look(connection, self._pools, after=self._after)
        self._backlog, self._look_at = found, time.monotonic() + LOOK_S
        if found and len(found.tenants) >= backlog.TENANTS_LOOKED_AT:
            *_, self._after = found.tenants
        while found:
            tried = set()
            for turn in self._pressing(found, resident):
                tried.add((turn.pool, turn.batch_key))
                yield turn
            yield from self._by_share(connection, found, resident, tried)
            found = backlog.look(connection, self._pools, behind=found.priority)

    def _pressing(self, seen: Backlog, resident: Collection[str]) -> Iterator[Turn]:
        """What closes soon, and in its time slice the key in hand."""
        tenants = self._shares.by_credit(seen.tenants)
        near = _by_key(seen.urgent)
        for key in self._by_deadline(seen.urgent, resident):
            yield self._offer(Turn(*key, seen.priority, tenants, near[key]))
        if self._hand and self._hand not in near and self._is_in_slice():
            yield self._offer(Turn(*self._hand, seen.priority, tenants))

    def _by_deadline(self, urgent: Sequence[Urgent], resident: Collection[str]) -> list[Key]:
        """The keys of what closes soon, the earliest first; among equals what is loaded."""
        keys: dict[Key, None] = {}
        for _, equals in groupby(urgent, lambda each: each.closes_at):
            found = [(each.pool, each.batch_key) for each in equals]
            keys |= dict.fromkeys(
                sorted(found, key=lambda key: (key != self._hand, key[1] not in resident))
            )
        return list(keys)

    def _by_share(
        self, connection: Connection, seen: Backlog, resident: Collection[str], tried: set[Key]
    ) -> Iterator[Turn]:
        """The keys of the tenants whose turn it is, what is loaded first; then of the others."""
        eligible = self._shares.in_turn(seen.tenants)
        by_credit = self._shares.by_credit(seen.tenants)

        def offer(tenant_id: UUID, key: Key, way: _Pass) -> Turn:
            tried.add(key)
            others = [other for other in by_credit if other != tenant_id]
            return self._offer(Turn(*key, seen.priority, [tenant_id, *others]), way)

        loaded = [key for key in resident if self._hand is None or key != self._hand[1]]
        some = eligible[:ELIGIBLE_LOOKED_AT]
        for tenant_id, pool, batch_key in backlog.queued_among(
            connection, self._pools, seen.priority, some, loaded
        ):
            key, way = (pool, batch_key), self._way(tenant_id)
            if key not in tried and not way.has_had(key):
                yield offer(tenant_id, key, _Pass(way.at, way.early | {key}))
        for tenant_id in by_credit[: claim.KEYS_LOOKED_AT]:
            for key, way in self._keys(connection, seen, tenant_id):
                if key not in tried:
                    yield offer(tenant_id, key, way)

    def _keys(
        self, connection: Connection, seen: Backlog, tenant_id: UUID
    ) -> Iterator[tuple[Key, _Pass]]:
        """A tenant's keys once round, from where its last turn ended, and where that leads to."""
        begun = self._way(tenant_id)
        pools = sorted(seen.tenants[tenant_id])
        for is_new in (False, True):
            at = ("", "") if is_new else begun.at
            for pool in pools:
                after = at[1] if pool == at[0] else ""
                while pool >= at[0] and (
                    found := backlog.next_key(connection, pool, seen.priority, tenant_id, after)
                ):
                    after, key = found, (pool, found)
                    if begun.has_had(key) == is_new:
                        yield key, _Pass(key, set() if is_new else begun.early)

    def _way(self, tenant_id: UUID) -> _Pass:
        return self._passes.get(tenant_id) or _Pass(self._start)

    def _offer(self, turn: Turn, way: _Pass | None = None) -> Turn:
        self._offered = turn, way
        return turn


def remember(known: dict[K, V], key: K, value: V) -> None:
    """Remember it as the last, and forget what was not said for longest if there is too much."""
    known.pop(key, None)
    known[key] = value
    if len(known) > KEPT:
        del known[next(iter(known))]


def _by_key(urgent: Sequence[Urgent]) -> dict[Key, list[Urgent]]:
    found: dict[Key, list[Urgent]] = {}
    for each in urgent:
        found.setdefault((each.pool, each.batch_key), []).append(each)
    return found
