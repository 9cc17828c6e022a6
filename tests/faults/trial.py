"""One trial: some jobs, one fault in the middle of them, and what has become of the jobs."""

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

from sqlalchemy import text

from jobs import submissions
from jobs.campaigns.file import from_mapping
from storage.lifecycle import FINAL, JobStatus
from tests.faults import audit
from tests.faults.audit import Finding
from tests.faults.house import House
from tests.faults.orders import Report

END_S = 120
"""How long the jobs of a trial may take; what is not final by then is unfinished."""
PHASE_S = 1.0
SETTLE_S = 30
"""How long the last orphans may take to be collected."""

SUCCEEDED = frozenset({JobStatus.SUCCEEDED})


class NotHereError(Exception):
    """This machine cannot show the fault; the message says what it lacks."""


@dataclass
class Trial:
    """What a case does its work with. ``random`` is seeded: a trial can be run again."""

    house: House
    random: random.Random
    fault_at: float | None = None
    """Unix time of the fault, where it is one moment."""
    _ends: dict[UUID, frozenset[JobStatus]] = field(default_factory=dict)
    _campaigns: list[UUID] = field(default_factory=list)

    def submit(
        self,
        recipients: int | None = None,
        *,
        prompts: Sequence[str] = (),
        size: str = "64x64",
        steps: int = 4,
        guidance: float = 5.0,
        model: str = "debug-diffusion",
        ends: frozenset[JobStatus] = SUCCEEDED,
        prompt_ends: frozenset[JobStatus] = SUCCEEDED,
    ) -> UUID:
        """A campaign; the first recipients get ``prompts``, whose jobs end in ``prompt_ends``.

        As many recipients as chance will have it, if nothing is said: one batch and a bit, or two.
        """
        recipients = recipients or self.random.randint(10, 16)
        rows = [
            {"id": str(n), "prompt": prompts[n] if n < len(prompts) else f"thing {n}"}
            for n in range(recipients)
        ]
        spec = from_mapping(
            {
                "name": "Trial",
                "model": model,
                "recipients": {"id": "id", "rows": rows},
                "creatives": [
                    {
                        "name": "hero",
                        "prompt": "{{ prompt }}",
                        "size": size,
                        "steps": steps,
                        "guidance": guidance,
                    }
                ],
            }
        )
        services = self.house.services
        campaign_id = submissions.submit_campaign(services, self.house.tenant_id, spec)
        self.watch(campaign_id, recipients)
        special = set(prompts)
        for row in self._rows(
            """
            SELECT jobs.id, recipients.data ->> 'prompt' AS prompt FROM jobs
            JOIN recipients ON recipients.id = jobs.recipient_id WHERE jobs.campaign_id = :id
            """,
            campaign_id,
        ):
            self.expect(row[0], prompt_ends if row[1] in special else ends)
        return campaign_id

    def watch(self, campaign_id: UUID, jobs: int) -> None:
        """Wait for a campaign's jobs and expect all of them to succeed."""
        self._campaigns.append(campaign_id)
        self.house.seen_campaigns.append(campaign_id)

        def job_ids() -> list[UUID] | None:
            found = self._rows("SELECT id FROM jobs WHERE campaign_id = :id", campaign_id)
            return [row[0] for row in found] if len(found) == jobs else None

        for job_id in self.house.until(job_ids, f"{jobs} jobs of {campaign_id}"):
            self.expect(job_id)

    def expect(self, job_id: UUID, ends: frozenset[JobStatus] = SUCCEEDED) -> None:
        """Count a job among those of this trial."""
        self._ends[job_id] = self.house.seen[job_id] = ends

    def expect_id(self, job_id: str) -> None:
        """The same, for an id as HTTP gives it."""
        self.expect(UUID(job_id))

    def now(self) -> float:
        """Unix time by the database's clock."""
        return float(str(self.value("SELECT extract(epoch FROM clock_timestamp())")))

    @property
    def job_ids(self) -> list[UUID]:
        """The jobs of this trial, in the order of their ids."""
        return sorted(self._ends)

    def order(self, point: str, action: str, *, to: str | None = None) -> None:
        """See `orders.Orders.give`."""
        self.house.orders.give(point, action, to=to)

    def is_open(self, point: str) -> bool:
        """Whether nobody has come to ``point`` yet."""
        return self.house.orders.report(point) is None

    def wait_for(self, point: str) -> Report:
        """Wait until the order at ``point`` has been carried out."""
        return self.house.until(
            partial(self.house.orders.report, point), f"somebody comes to {point}", END_S
        )

    def done(self, point: str) -> Report:
        """The same; that was the fault."""
        report = self.wait_for(point)
        self.fault_at = report.at
        return report

    def until(self, condition: Callable[[], object], what: str) -> None:
        """See `House.until`."""
        self.house.until(condition, what, END_S)

    def ended(self) -> bool:
        """Whether all jobs are final."""
        return all(status in FINAL for status in self.statuses().values())

    def statuses(self) -> dict[UUID, str]:
        """Where each job of this trial is."""
        with self.house.engine.begin() as connection:
            rows = connection.execute(
                text("SELECT id, status FROM jobs WHERE id = ANY(:ids)"), {"ids": self.job_ids}
            )
            return {row.id: row.status for row in rows}

    def value(self, query: str, **values: str) -> object:
        """The one value that a query with ``:ids`` (the trial's jobs) answers with."""
        with self.house.engine.begin() as connection:
            return connection.execute(text(query), {"ids": self.job_ids, **values}).scalar()

    def check_no_attempt_lost(self) -> None:
        """AssertionError if a job needed a second attempt, or its lease was taken."""
        query = "SELECT count(*) FROM jobs WHERE id = ANY(:ids) AND (attempts > 1 OR solo)"
        lost = self.value(query)
        assert lost == 0, f"{lost} jobs lost an attempt"

    def jitter(self, most_s: float) -> None:
        """Let a random part of ``most_s`` pass, so that a race is run differently each time."""
        threading.Event().wait(self.random.uniform(0, most_s))

    def examine(self) -> Finding:
        """What the audit says about the trial's jobs."""
        house = self.house
        return audit.examine(
            house.engine, house.settings.objects(), self._ends, self._campaigns, self.fault_at
        )

    def _rows(self, query: str, campaign_id: UUID) -> list[tuple[UUID, str]]:
        with self.house.engine.begin() as connection:
            return [tuple(row) for row in connection.execute(text(query), {"id": campaign_id})]


Case = Callable[[Trial], None]
"""Submits work and injects a fault. What follows is the same for all: see `run`."""


def run(house: House, case: Case, seed: int, settle_s: float = SETTLE_S) -> Finding:
    """One trial of ``case``: inject, wait for the end, and examine.

    Raises:
        NotHereError: it cannot be shown on this machine.
    """
    trial = Trial(house, random.Random(seed))
    # Sweeps, idle looks and heartbeats are in another phase each time.
    trial.jitter(PHASE_S)
    try:
        case(trial)
        house.orders.clear()
        house.until(trial.ended, "every job is final", END_S)
    except NotHereError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever it is, the next trials are worth running)
        return replace(trial.examine(), problem=f"{type(error).__name__}: {error}")
    finally:
        house.orders.clear()
    return settle(trial, settle_s)


def look_back(house: House) -> Finding:
    """All trials of the house once more: what was well must have stayed so."""
    trial = Trial(house, random.Random(0), _ends=house.seen, _campaigns=house.seen_campaigns)
    return trial.examine()


def settle(trial: Trial, settle_s: float = SETTLE_S) -> Finding:
    """Examine until all is well: orphans are collected, and zombies refused, a moment later."""
    finding = trial.examine()

    def is_well() -> bool:
        nonlocal finding
        finding = trial.examine()
        return not finding.broken

    with suppress(AssertionError):
        trial.house.until(is_well, "the last orphans are collected", settle_s)
    return finding
