"""What a worker's heartbeat does for the claims that it holds."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, text

from storage.ledger import cancel, claim, pause
from tests.integration.ledger_cases import ids, submit_jobs, take_some, value
from tests.waiting import until
from workers.pulse import Pulse


def test_several_claims_at_once(engine: Engine, tenant_id: UUID) -> None:
    """Each is renewed at every beat and hears what is to stop of it, until it is dropped."""
    submit_jobs(engine, tenant_id, 2, "a")
    submit_jobs(engine, tenant_id, 2, "b")
    one, other = take_some(engine, prefer="a"), take_some(engine, prefer="b")
    pulse = Pulse(engine, name="cpu-0@test", pool="default", device="cpu-0", every_s=0)

    def lease(claim_id: UUID) -> datetime:
        found = value(engine, "SELECT lease_until FROM claims WHERE id = :id", id=claim_id)
        assert isinstance(found, datetime)
        return found

    def wait_for_a_beat() -> None:
        before = lease(other.claim_id)
        until(lambda: lease(other.claim_id) > before, what="a beat")

    first = lease(one.claim_id)
    held_one, held_other = pulse.hold(one.claim_id), pulse.hold(other.claim_id)
    pulse.start()
    try:
        until(lambda: lease(one.claim_id) > first, what="a beat for the first")
        wait_for_a_beat()
        cancel.cancel_job(engine, tenant_id, ids(other)[1])
        until(lambda: held_other.cancelled == {ids(other)[1]}, what="the cancelled job")
        pause.pause_job(engine, tenant_id, ids(other)[0])
        until(lambda: held_other.paused == {ids(other)[0]}, what="the job to be paused")
        assert held_one.cancelled == held_one.paused == frozenset()
        pause.resume_job(engine, tenant_id, ids(other)[0])
        until(lambda: not held_other.paused, what="the job that goes on")
        pulse.drop(held_one)
        wait_for_a_beat()  # which was perhaps under way already
        last = lease(one.claim_id)
        wait_for_a_beat()
        assert lease(one.claim_id) == last
        assert not held_other.lost
    finally:
        pulse.stop()


def test_a_claim_that_is_being_finished_holds_up_no_other(engine: Engine, tenant_id: UUID) -> None:
    """However long that takes, the heartbeat goes on; it is held until it is gone."""
    submit_jobs(engine, tenant_id, 1)
    batch = take_some(engine)
    with engine.begin() as finishing:
        values = {"id": batch.claim_id}
        finishing.execute(text("SELECT FROM claims WHERE id = :id FOR UPDATE"), values)
        assert claim.renew(engine, batch.claim_id).held  # at once
        finishing.execute(text("DELETE FROM claims WHERE id = :id"), values)
        assert claim.renew(engine, batch.claim_id).held
    assert not claim.renew(engine, batch.claim_id).held
