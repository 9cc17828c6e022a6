"""Who makes what identical jobs ask for: as the ledger notes it, and what a finish does by it."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import Engine

from jobs.services import Services
from storage import retention, tenants
from storage.ledger import cancel, makings
from storage.ledger.finish import Deferred, Outcome, Released, Reused, finish
from storage.ledger.makings import Making, Wanted
from storage.lifecycle import JobStatus
from storage.retention import Age
from tests.integration.ledger_cases import (
    broken,
    check_books,
    execute,
    ids,
    made,
    rows,
    statuses,
    submit_jobs,
    take_some,
    together,
    value,
)


def test_the_ledger_gives_nothing_to_another_tenant(engine: Engine, tenant_id: UUID) -> None:
    """Not even to a worker that asks for it: such a job goes back to be made."""
    with engine.begin() as connection:
        other = tenants.ensure(connection, "other")
    (first,) = submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    finish(engine, batch.claim_id, [made(first)])
    (foreign,) = submit_jobs(engine, other, 1)
    batch = take_some(engine)
    assert finish(engine, batch.claim_id, [Reused(foreign, first)]) == {foreign: JobStatus.QUEUED}
    (mate,) = submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    outcomes: list[Outcome] = [made(mate, "y"), Reused(foreign, mate)]
    assert finish(engine, batch.claim_id, outcomes)[foreign] is JobStatus.QUEUED
    place = Wanted(tenant_id, "same", mate), Wanted(other, "same", foreign)
    found = makings.reserve(engine, batch.claim_id, place)
    assert [found[each.place].job_id for each in place] == [mate, foreign]
    check_books(engine)


def test_a_maker_that_is_cancelled_as_it_ends(engine: Engine, tenant_id: UUID) -> None:
    """Its mate, which was to refer to it, goes back and is made."""
    maker, mate = submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    cancel.cancel_job(engine, tenant_id, maker)
    left = finish(engine, batch.claim_id, [made(maker), Reused(mate, maker)])
    assert left == {maker: JobStatus.CANCELLED, mate: JobStatus.QUEUED}
    assert rows(engine, "SELECT FROM orphans")
    assert value(engine, "SELECT attempts FROM jobs WHERE id = :id", id=mate) == 0
    check_books(engine)


def test_a_cancelled_job_reuses_nothing(engine: Engine, tenant_id: UUID) -> None:
    """Nor is one that was cancelled put off; neither has left anything in the bucket."""
    maker, reuser, deferred = submit_jobs(engine, tenant_id, 3)
    batch = take_some(engine)
    cancel.cancel_job(engine, tenant_id, reuser)
    cancel.cancel_job(engine, tenant_id, deferred)
    outcomes: list[Outcome] = [made(maker), Reused(reuser, maker), Deferred(deferred, 1)]
    finish(engine, batch.claim_id, outcomes)
    assert statuses(engine, maker, reuser, deferred) == ["succeeded", "cancelled", "cancelled"]
    assert not rows(engine, "SELECT FROM orphans")
    check_books(engine)


def test_a_finish_that_is_repeated(engine: Engine, tenant_id: UUID) -> None:
    """It says the same again, and writes nothing twice."""
    maker, mate = submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    outcomes: list[Outcome] = [made(maker, outputs=2), Reused(mate, maker)]
    left = finish(engine, batch.claim_id, outcomes)
    assert set(left.values()) == {JobStatus.SUCCEEDED}
    assert finish(engine, batch.claim_id, outcomes) == left
    assert value(engine, "SELECT count(*) FROM artifacts") == 4
    check_books(engine)


def test_a_purge_at_the_same_moment(engine: Engine, tenant_id: UUID, services: Services) -> None:
    """Whoever comes first has its way: the job refers to what stays, or goes back."""
    maker, reuser = submit_jobs(engine, tenant_id, 2)
    batch = take_some(engine)
    finish(engine, batch.claim_id, [made(maker), Released(reuser)])
    batch = take_some(engine)
    with engine.begin() as finishing:
        assert len(makings.made(finishing, [maker])) == 1
        execute(engine, "UPDATE jobs SET finished_at = now() WHERE id = :id", id=maker)
        gone = list(retention.purge(engine, services.objects, Age(0)))
        assert sum(each.jobs for each in gone) == 0
    with engine.begin() as purging:
        locked = "SELECT FROM jobs WHERE id = :id FOR UPDATE"
        purging.exec_driver_sql(locked.replace(":id", "%(id)s"), {"id": maker})
        left = finish(engine, batch.claim_id, [Reused(reuser, maker)])
    assert left == {reuser: JobStatus.QUEUED}
    check_books(engine)


def test_reserving_at_the_same_moment(engine: Engine, tenant_id: UUID) -> None:
    """Each thing goes to one of those that ask for it, new or left by somebody, in any order."""
    numbers = range(20)
    gone = submit_jobs(engine, tenant_id, 1)
    lost = take_some(engine)
    makings.reserve(engine, lost.claim_id, [Wanted(tenant_id, f"{n}", gone[0]) for n in range(10)])
    finish(engine, lost.claim_id, [broken(gone[0], retry=False)])
    submit_jobs(engine, tenant_id, 4 * len(numbers))
    batches = [take_some(engine, len(numbers)) for _ in range(4)]

    def ask(place: int) -> Callable[[], dict[makings.Place, Making]]:
        order = list(zip(numbers, ids(batches[place]), strict=True))
        wanted = [Wanted(tenant_id, f"{n}", job_id) for n, job_id in order]
        return lambda: makings.reserve(
            engine, batches[place].claim_id, wanted if place % 2 else wanted[::-1]
        )

    found = together(*(ask(place) for place in range(4)))
    for n in numbers:
        makers = {answer[tenant_id, f"{n}"].job_id for answer in found}
        mine = [
            place
            for place, answer in enumerate(found)
            if answer[tenant_id, f"{n}"].job_id == ids(batches[place])[n]
        ]
        assert len(mine) == 1
        noted = value(engine, "SELECT job_id FROM makings WHERE digest = :n", n=f"{n}")
        assert noted == ids(batches[mine[0]])[n]
        assert noted in makers
    # Asked again, as after a commit whose answer was lost, it says the same.
    again = ask(1)()
    assert {place: making.job_id for place, making in again.items()} == {
        (row.tenant_id, row.digest): row.job_id for row in rows(engine, "SELECT * FROM makings")
    }


def test_what_counts_as_a_maker(engine: Engine, tenant_id: UUID) -> None:
    """One that runs under its claim, or has succeeded; not one that was given back or failed."""
    (first, second) = submit_jobs(engine, tenant_id, 2)
    one, two = take_some(engine, 1), take_some(engine, 1)
    want_first, want_second = (Wanted(tenant_id, "same", job_id) for job_id in (first, second))

    def maker(claim_id: UUID, wanted: Wanted) -> tuple[UUID, bool]:
        (making,) = makings.reserve(engine, claim_id, [wanted]).values()
        assert 0 <= making.since_s < 60
        return making.job_id, making.is_made

    assert maker(one.claim_id, want_first) == (first, False)
    assert maker(one.claim_id, want_first) == (first, False)
    assert maker(two.claim_id, want_second) == (first, False)
    finish(engine, one.claim_id, [Released(first)])
    assert maker(two.claim_id, want_second) == (second, False)
    again = take_some(engine, 1)
    assert maker(again.claim_id, want_first) == (second, False)
    finish(engine, two.claim_id, [made(second)])
    assert maker(again.claim_id, want_first) == (second, True)
    assert finish(engine, again.claim_id, [Reused(first, second)]) == {first: "succeeded"}
