"""Identical jobs are made once: what need not be made of a batch, and what becomes of it."""

import hashlib
import json
import logging
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from jobs.kinds import KINDS
from jobs.registry.choice import has_ended
from storage import models
from storage.ledger import makings
from storage.ledger.claim import Batch, ClaimedJob
from storage.ledger.finish import Deferred, Outcome, Reused, Succeeded
from storage.ledger.makings import Place, Wanted
from storage.models import ModelCard
from workers.family import Item

_log = logging.getLogger(__name__)

WAIT_S = (2.0, 60.0)
"""How long a job waits at least and at most for what another one is just making."""

LARGER_CLAIM = 8
"""By how much a claim may grow where most of it need not be made."""


@dataclass
class Plan:
    """What is to be made of a batch, and the outcomes of jobs that have one already."""

    items: list[Item]
    outcomes: list[Outcome] = field(default_factory=list)
    followers: dict[UUID, list[UUID]] = field(default_factory=dict)
    """The jobs of the batch that want the same as one that is made, by that one."""

    @property
    def is_put_off(self) -> bool:
        """Whether all that there was is being made by others: something else may be to do."""
        return not self.items and any(isinstance(each, Deferred) for each in self.outcomes)

    def follow(self, outcome: Outcome) -> Iterator[Outcome]:
        """What becomes of the jobs that want the same as the one that has now been made."""
        for job_id in self.followers.get(outcome.job_id, ()):
            if isinstance(outcome, Succeeded):
                yield Reused(job_id, outcome.job_id)
            else:
                # They share its fate, as they would in the same call. One by one, a thousand jobs
                # that all fail would take a thousand claims.
                yield replace(outcome, job_id=job_id)


class Reuse:
    """Which jobs of a batch another one of their tenant makes, or has made.

    Only of those whose seed somebody has chosen, and that do not forbid it: derived seeds differ
    from job to job, and campaigns that have them pay nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cards: dict[str, ModelCard] = {}
        self._share = 1.0
        self._share_of: str | None = None

    def claim_size(self, size: int, batch_key: str | None) -> int:
        """How many jobs to claim so that about ``size`` are to be made, if it is of that key."""
        if batch_key is None or batch_key != self._share_of:
            return size
        return min(round(size / self._share), size * LARGER_CLAIM)

    def plan(self, batch: Batch, items: Sequence[Item], under_way: Collection[UUID] = ()) -> Plan:
        """Who makes the batch's ``items``; without the database: the batch itself, all of them.

        What is made under a claim of ``under_way`` will be there before this batch is finished.
        """
        jobs = {job.id: job for job in batch.jobs}
        seeded = [item for item in items if item.request.reuse and _is_seeded(jobs[item.job_id])]
        plan = Plan(list(items))
        if seeded:
            try:
                plan = self._plan(batch, items, seeded, under_way)
            except DBAPIError as error:
                _log.warning("claim %s: made without reuse (%s)", batch.claim_id, error.orig)
        self._note_share(batch.batch_key, plan, len(items))
        return plan

    def _plan(
        self,
        batch: Batch,
        items: Sequence[Item],
        seeded: Sequence[Item],
        under_way: Collection[UUID],
    ) -> Plan:
        jobs = {job.id: job for job in batch.jobs}
        wanted: dict[UUID, Wanted] = {}
        for item in seeded:
            cards = self._cards_of(item)
            if cards:
                job = jobs[item.job_id]
                wanted[job.id] = Wanted(job.tenant_id, digest_of(job.kind, item, cards), job.id)
        first: dict[Place, Wanted] = {}
        for each in wanted.values():
            first.setdefault(each.place, each)
        making = makings.reserve(self._engine, batch.claim_id, list(first.values()))
        plan = Plan([])
        for item in items:
            if item.job_id not in wanted:
                plan.items.append(item)
                continue
            by = making[wanted[item.job_id].place]
            leader = first[wanted[item.job_id].place].job_id
            if by.is_made or (by.job_id != leader and by.claim_id in under_way):
                plan.outcomes.append(Reused(item.job_id, by.job_id))
            elif by.job_id != leader:
                plan.outcomes.append(Deferred(item.job_id, _wait_s(by.since_s)))
            elif item.job_id == leader:
                plan.items.append(item)
            else:
                plan.followers.setdefault(leader, []).append(item.job_id)
        if len(plan.items) < len(items):
            _log.info(
                "claim %s: %d of %d jobs are to be made, the others want the same",
                batch.claim_id,
                len(plan.items),
                len(items),
            )
        return plan

    def _cards_of(self, item: Item) -> list[ModelCard]:
        """The model's card and those of the adapters; none if one of them cannot be used."""
        names = [item.request.model, *(use.name for use in item.request.uses)]
        missing = set(names) - self._cards.keys()
        if missing:
            with self._engine.begin() as connection:
                found = [models.find(connection, name) for name in missing]
            # A registered model never changes its meaning, so what was read once stays right.
            self._cards |= {card.name: replace(card, manifest={}) for card in found if card}
        cards = [self._cards.get(name) for name in names]
        usable = [card for card in cards if card is not None and not has_ended(card)]
        return usable if len(usable) == len(names) else []

    def _note_share(self, batch_key: str, plan: Plan, items: int) -> None:
        """Remember how much of the key's claims has to be made: as much again of what is new."""
        deferred = sum(isinstance(each, Deferred) for each in plan.outcomes)
        share = (len(plan.items) + deferred) / items if items else 1.0
        before = self._share if batch_key == self._share_of else 1.0
        self._share_of = batch_key
        self._share = max((before + share) / 2, 1 / LARGER_CLAIM)


def _is_seeded(job: ClaimedJob) -> bool:
    """Whether somebody chose the seed. Others are derived from the job's or recipient's name."""
    given = (job.part.parameters if job.part else job.request or {}).get("seed")
    return isinstance(given, int)


def digest_of(kind: str, item: Item, cards: Sequence[ModelCard]) -> str:
    """A digest of all that decides the output and what is to be said of it, and of nothing else.

    Files count by their bytes, and by what their licences demand. On which device it is made, and
    in which precision, does not count: a job asks for content.
    """
    inputs = KINDS[kind].inputs
    request = item.request.model_dump(mode="json", exclude={"model", "reuse", *inputs})
    decides: dict[str, Any] = {
        "kind": kind,
        "models": [card.identity for card in cards],
        "request": request,
        "inputs": {
            name: [
                [given.sha256, given.media_type, given.licence, list(given.attribution)]
                for given in item.inputs.get(name, ())
            ]
            for name in inputs
        },
    }
    canonical = json.dumps(decides, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _wait_s(since_s: float) -> float:
    """As long again as it has taken so far, and spread so that not all come back together."""
    least, most = WAIT_S
    return min(max(since_s, least), most) * random.uniform(0.5, 1.0)  # noqa: S311
