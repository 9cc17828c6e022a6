"""Whose turn it is, on the real ledger: priority, deadline, tenant share, and what is loaded."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from statistics import quantiles
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from storage import tenants
from storage.ledger import backlog, cancel, submit
from storage.ledger.claim import Batch
from storage.ledger.submit import NewWindow
from tests.integration.ledger_cases import (
    LEASE_S,
    POOL,
    check_books,
    execute,
    fan_out,
    ids,
    new_campaign,
    recipient_rows,
    submit_campaign,
    submit_jobs,
    value,
)
from workers import turns as turns_module
from workers.turns import LEAST_QUANTUM_S, Key, Turns

SIZE = 8


@pytest.fixture
def other(engine: Engine) -> UUID:
    """A second tenant."""
    with engine.begin() as connection:
        return tenants.ensure(connection, "other")


@pytest.fixture(autouse=True)
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was submitted a moment ago is overlooked."""
    monkeypatch.setattr(turns_module, "LOOK_S", 0.0)


def worker(
    engine: Engine,
    *pools: str,
    size: int = SIZE,
    slice_s: float = LEASE_S,
    came_from: Key | None = None,
) -> Turns:
    """The turns of one worker."""
    return Turns(
        engine,
        worker="tester",
        pools=pools or [POOL],
        size=lambda _: size,
        lease_s=LEASE_S,
        slice_s=slice_s,
        came_from=came_from,
    )


def batches(turns: Turns, resident: Sequence[str] = ()) -> Iterator[Batch]:
    """What the worker gets until nothing is left; each batch takes a second of its device."""
    while batch := turns.next(resident):
        turns.spent(batch, 1)
        yield batch


def keys(turns: Turns, count: int | None = None, resident: Sequence[str] = ()) -> str:
    """The keys of the next batches."""
    return "".join(batch.batch_key for batch in islice(batches(turns, resident), count))


def queue(engine: Engine, tenant_id: UUID, count: int, batch_key: str) -> None:
    """Queue many jobs of a key at once."""
    execute(
        engine,
        """
        INSERT INTO jobs (tenant_id, kind, pool, batch_key, request, status)
        SELECT :tenant_id, 'image', :pool, :batch_key, '{}', 'queued'
        FROM generate_series(1, :count)
        """,
        tenant_id=tenant_id,
        pool=POOL,
        batch_key=batch_key,
        count=count,
    )


def closing(engine: Engine, tenant_id: UUID, count: int, key: str, in_s: float) -> UUID:
    """A campaign that closes in some seconds."""
    now = value(engine, "SELECT clock_timestamp()")
    campaign = new_campaign(tenant_id, key, window=NewWindow(now + timedelta(seconds=in_s)))
    campaign_id = submit.submit_campaign(engine, campaign, recipient_rows(count))
    fan_out(engine)
    return campaign_id


@pytest.mark.parametrize(("key", "slice_s"), [("a", LEASE_S), ("b", 0)])
def test_ten_jobs_are_not_stuck_behind_twenty_thousand(
    engine: Engine,
    tenant_id: UUID,
    other: UUID,
    monkeypatch: pytest.MonkeyPatch,
    *,
    key: str,
    slice_s: float,
) -> None:
    """They wait for a batch or two of the others, on the same key or on another one.

    By age alone half of them would wait for more than 10,000 jobs, or 20,000 on the other key.
    """
    # Here a second is a hundred batches, and a worker hears of new tenants once in it.
    monkeypatch.setattr("workers.turns.LOOK_S", 0)
    queue(engine, tenant_id, 10_000, "a")
    queue(engine, tenant_id, 10_000, "b")
    execute(engine, "ANALYZE jobs")
    turns = worker(engine, slice_s=slice_s, came_from=(POOL, "a"))
    list(islice(batches(turns), 4))
    late = submit_jobs(engine, other, 10, key)
    older = value(
        engine,
        "SELECT count(*) FROM jobs WHERE batch_key = :key AND status = 'queued' AND id < :id",
        key=key,
        id=late[0],
    )
    served = 0
    waits: dict[UUID, int] = {}
    for batch in islice(batches(turns), 12):
        waits |= {job_id: served for job_id in ids(batch) if job_id in late}
        served += len(batch.jobs)
        assert len(batch.jobs) == SIZE
    p50, p95 = (quantiles([waits[job_id] for job_id in late], n=20)[n] for n in (9, 18))
    assert p50 <= 2 * SIZE
    assert p95 <= 4 * SIZE
    # The others hardly notice: the ten are all that has come between.
    assert older > 9_900
    assert served - len(late) == 11 * SIZE - 2


def test_a_batch_is_filled_with_the_jobs_of_others(
    engine: Engine, tenant_id: UUID, other: UUID
) -> None:
    """Who was served least comes first, and what room is left is for the next one."""
    theirs = submit_jobs(engine, tenant_id, 20)
    turns = worker(engine)
    list(islice(batches(turns), 1))
    mine = submit_jobs(engine, other, 3)
    batch = turns.next()
    assert batch
    assert set(ids(batch)) == {*mine, *theirs[8:13]}


def test_a_batch_is_filled_with_what_is_less_urgent(
    engine: Engine, tenant_id: UUID, other: UUID
) -> None:
    """That of the same tenants, where there is room behind all that is as urgent."""
    urgent = [submit_jobs(engine, each, 2, priority=-5) for each in (tenant_id, other)]
    less = submit_jobs(engine, tenant_id, 2)
    last = submit_jobs(engine, tenant_id, 9, priority=5)
    first, second = batches(worker(engine))
    assert set(ids(first)) == {*urgent[0], *urgent[1], *less, *last[:2]}
    assert ids(second) == last[2:]


def test_priority_comes_before_everything(engine: Engine, tenant_id: UUID, other: UUID) -> None:
    """What is more urgent ends a time slice, and waits for no deadline and nobody's share."""
    queue(engine, tenant_id, 50, "a")
    turns = worker(engine)
    assert keys(turns, 2) == "aa"
    closing(engine, other, 1, "b", in_s=60)
    submit_jobs(engine, tenant_id, 9, "c", priority=-1)
    assert keys(turns, 4) == "ccba"


def test_a_near_deadline_comes_before_shares(engine: Engine, tenant_id: UUID, other: UUID) -> None:
    """It ends a time slice as well, the nearest first; one that is far off has its share."""
    queue(engine, tenant_id, 100, "a")
    turns = worker(engine)
    assert keys(turns, 2) == "aa"
    closing(engine, tenant_id, 9, "z", in_s=backlog.DEADLINE_NEAR_S / 2)
    closing(engine, tenant_id, 9, "y", in_s=60)
    closing(engine, tenant_id, 9, "x", in_s=backlog.DEADLINE_NEAR_S + 60)
    submit_jobs(engine, other, 8, "w")
    assert keys(turns, 4) == "yyzz"
    assert keys(turns, 1) == "w"
    check_books(engine)


def test_of_a_key_what_closes_soon_comes_first(engine: Engine, tenant_id: UUID) -> None:
    """A campaign's own jobs are reached past older ones of the same tenant and key."""
    older = submit_jobs(engine, tenant_id, 20)
    closing(engine, tenant_id, 5, "a", in_s=120)
    closing(engine, tenant_id, 5, "a", in_s=60)
    first, second = islice(batches(worker(engine)), 2)
    reopens = "SELECT count(*) FROM jobs WHERE status = 'running' AND campaign_id IS NOT NULL"
    assert value(engine, reopens) == 10
    assert not set(ids(first)) & set(older)
    assert set(ids(second)) > set(older[:6])


def test_of_the_same_deadline_what_is_loaded_comes_first(engine: Engine, tenant_id: UUID) -> None:
    """One campaign's creatives close at once: those whose model is there, then the others."""
    at = value(engine, "SELECT clock_timestamp() + interval '1 minute'")
    campaign = new_campaign(tenant_id, *"abc", window=NewWindow(at))
    submit.submit_campaign(engine, campaign, recipient_rows(8))
    fan_out(engine)
    assert keys(worker(engine, slice_s=0), resident=["c"]) == "cab"


def test_a_cancelled_campaign_that_was_to_close(engine: Engine, tenant_id: UUID) -> None:
    """It is not urgent any more, and what it leaves on its way keeps nobody from running."""
    campaign_id = closing(engine, tenant_id, 30, "a", in_s=60)
    turns = worker(engine, size=2)
    assert keys(turns, 1) == "a"
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    [job_id] = submit_jobs(engine, tenant_id, 1, "b")
    assert [ids(batch) for batch in batches(turns)] == [[job_id]]


def test_cancelled_jobs_of_one_tenant_hide_none_of_anothers(
    engine: Engine, tenant_id: UUID, other: UUID
) -> None:
    """Those that are passed by are the tenant's whose campaign was cancelled, and no older ones."""
    older = submit_jobs(engine, other, 2)
    campaign_id = submit_campaign(engine, tenant_id, 50)
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    found = [job_id for batch in batches(worker(engine, size=1)) for job_id in ids(batch)]
    assert found == older
    check_books(engine)


def test_what_is_loaded_comes_first_among_equals(engine: Engine, tenant_id: UUID) -> None:
    """But each of a tenant's keys has its turn before one has its second."""
    for key in "abcd":
        queue(engine, tenant_id, 50, key)
    turns = worker(engine, slice_s=0, came_from=(POOL, ""))
    assert keys(turns, 8, resident=["c"]) == "cabdacbd"


def test_who_has_what_is_loaded_comes_first_among_equals(
    engine: Engine, tenant_id: UUID, other: UUID
) -> None:
    """Of two tenants with credit, the one whose model is there goes first; then the other does."""
    for each, key in ((tenant_id, "a"), (tenant_id, "c"), (other, "b")):
        queue(engine, each, 50, key)
    turns = worker(engine, slice_s=0, came_from=(POOL, ""))
    found = []
    for _ in range(3):
        batch = turns.next(["a", "c"])
        assert batch
        turns.spent(batch, LEAST_QUANTUM_S / 4)
        found.append(batch.batch_key)
    assert (set(found[:2]), found[2]) == ({"a", "c"}, "b")


def test_several_pools(engine: Engine, tenant_id: UUID, other: UUID) -> None:
    """A worker does the work of its pools as if they were one, and no other's."""
    submit_jobs(engine, tenant_id, 9, "a", pool="small")
    submit_jobs(engine, tenant_id, 9, "b", pool="large")
    submit_jobs(engine, other, 9, "a", pool="large")
    submit_jobs(engine, other, 1, "c", pool="large", priority=-1)
    submit_jobs(engine, other, 1, "d", pool="foreign", priority=-2)
    found = list(batches(worker(engine, "small", "large", slice_s=0)))
    assert found[0].batch_key == "c"
    assert sorted(batch.batch_key for batch in found[1:]) == list("aaaabb")
    assert value(engine, "SELECT DISTINCT pool FROM jobs WHERE status = 'queued'") == "foreign"
    for batch in found:
        pools = value(
            engine, "SELECT count(DISTINCT pool) FROM jobs WHERE id = ANY(:ids)", ids=ids(batch)
        )
        assert pools == 1


def test_many_tenants(engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than a look tells apart each has its turn all the same."""
    monkeypatch.setattr(backlog, "TENANTS_LOOKED_AT", 3)
    execute(
        engine,
        """
        INSERT INTO jobs (tenant_id, kind, pool, batch_key, request, status)
        SELECT CAST(md5(CAST(n % 10 AS text)) AS uuid), 'image', :pool, 'a', '{}', 'queued'
        FROM generate_series(1, 400) AS n
        """,
        pool=POOL,
    )
    had: list[Any] = []
    for batch in islice(batches(worker(engine, slice_s=0)), 20):
        had += {job.tenant_id for job in batch.jobs}
    assert {had.count(each) for each in had} <= {1, 2, 3}
    assert len(set(had)) == 10


def test_nobody_pays_for_a_batch_that_is_given_back(engine: Engine, tenant_id: UUID) -> None:
    """It was charged by what the one before has cost when it was claimed."""
    submit_jobs(engine, tenant_id, 2)
    turns = worker(engine, size=1)
    first = turns.next()
    assert first
    turns.spent(first, 1)
    credit = turns._shares._of  # noqa: SLF001
    before = credit(tenant_id)
    ahead = turns.next()
    assert ahead
    assert credit(tenant_id) == before - 1
    turns.given_back(ahead)
    assert credit(tenant_id) == before
