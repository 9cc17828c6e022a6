"""How a worker gets work: one key at a time, in order, never twice, by index."""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, text

from storage import counters, workers
from storage.ledger import backlog, cancel, claim
from storage.ledger.claim import Batch, CampaignPart
from storage.lifecycle import JobStatus
from tests.integration.ledger_cases import (
    LIMIT_S,
    POOL,
    at_commit,
    at_statement,
    campaign_jobs,
    check_books,
    connection_of,
    counts,
    execute,
    finish_all,
    ids,
    job_row,
    listening,
    lose_commit,
    lose_commit_answer,
    no_errors,
    release_all,
    rows,
    submit_campaign,
    submit_jobs,
    take,
    take_some,
    terminate,
    together,
    value,
)


def drain(engine: Engine, size: int = 100, prefer: str | None = None) -> Iterator[Batch]:
    """Claim until there is nothing left."""
    while batch := take(engine, size, prefer=prefer):
        yield batch


def test_nothing_to_do(engine: Engine) -> None:
    """An empty queue gives no batch and leaves no claim."""
    assert take(engine) is None
    assert value(engine, "SELECT count(*) FROM claims") == 0


def test_a_claimed_job(engine: Engine, tenant_id: UUID) -> None:
    """The worker gets the job's request, and SQL knows whose it is, until when."""
    [job_id] = submit_jobs(engine, tenant_id, 1, request={"prompt": "藍杯", "steps": 4})
    batch = take(engine, lease_s=45)
    assert batch is not None
    [job] = batch.jobs
    assert (batch.batch_key, batch.lease_s) == ("a", 45)
    assert (job.id, job.kind, job.attempt, job.part) == (job_id, "image", 1, None)
    assert job.request == {"prompt": "藍杯", "steps": 4}
    row = job_row(engine, job_id)
    assert (row.status, row.claim_id, row.attempts) == ("running", batch.claim_id, 1)
    [held] = rows(
        engine,
        """
        SELECT id, worker, extract(epoch FROM lease_until - clock_timestamp()) AS left_s
        FROM claims
        """,
    )
    assert (held.id, held.worker) == (batch.claim_id, "tester")
    assert 15 < held.left_s <= 45


def test_a_campaigns_job(engine: Engine, tenant_id: UUID) -> None:
    """A campaign's job comes with what it is rendered from instead of a request."""
    submit_campaign(engine, tenant_id, 2)
    creative_id = value(engine, "SELECT id FROM creatives")
    first, second = take_some(engine).jobs
    assert first.request is None
    assert first.part == CampaignPart(
        creative_id, "creative0", {"prompt": "mug"}, "r0", {"number": 0}
    )
    assert second.part == CampaignPart(
        creative_id, "creative0", {"prompt": "mug"}, "r1", {"number": 1}
    )


def test_one_key_at_a_time(engine: Engine, tenant_id: UUID) -> None:
    """Jobs that cannot share a compiled batch never come together, whatever lies between them."""
    older, newer, mate = (submit_jobs(engine, tenant_id, 1, key)[0] for key in ("b", "a", "b"))
    batches = list(drain(engine))
    assert {batch.batch_key: ids(batch) for batch in batches} == {
        "a": [newer],
        "b": [older, mate],
    }
    assert len(batches) == 2


def test_priority_then_age(engine: Engine, tenant_id: UUID) -> None:
    """Within a key lower numbers run first, and of the same number the older job."""
    submitted = {
        priority: submit_jobs(engine, tenant_id, 2, priority=priority) for priority in (5, -5, 0)
    }
    expected = submitted[-5] + submitted[0] + submitted[5]
    assert [job_id for batch in drain(engine, 3) for job_id in ids(batch)] == expected


def test_priority_between_keys(engine: Engine, tenant_id: UUID) -> None:
    """The key with the most urgent head goes first, however old the others are."""
    submit_jobs(engine, tenant_id, 2, "a")
    submit_jobs(engine, tenant_id, 1, "z", priority=1)
    submit_jobs(engine, tenant_id, 1, "m", priority=-1)
    assert [batch.batch_key for batch in drain(engine)] == ["m", "a", "z"]


def test_size(engine: Engine, tenant_id: UUID) -> None:
    """A batch is as large as asked for and no larger; the rest stays in order."""
    job_ids = submit_jobs(engine, tenant_id, 5)
    assert [ids(batch) for batch in drain(engine, 2)] == [job_ids[:2], job_ids[2:4], job_ids[4:]]


def test_prefer(engine: Engine, tenant_id: UUID) -> None:
    """A worker stays on the key it prefers while that has work, then takes the others."""
    submit_jobs(engine, tenant_id, 1, "a")
    submit_jobs(engine, tenant_id, 2, "b")
    found = [batch.batch_key for batch in drain(engine, 1, prefer="b")]
    assert found == ["b", "b", "a"]


def test_prefer_a_key_without_work(engine: Engine, tenant_id: UUID) -> None:
    """A preference for what is not there is no obstacle."""
    submit_jobs(engine, tenant_id, 1, "a")
    assert take_some(engine, prefer="gone").batch_key == "a"


def test_the_turn_goes_on_behind_a_preferred_key(engine: Engine, tenant_id: UUID) -> None:
    """A worker whose key has nothing left goes on to the next one, not to where all begin."""
    for key in "ac":
        submit_jobs(engine, tenant_id, 1, key)
    assert take_some(engine, prefer="b").batch_key == "c"


def test_workers_without_a_key_spread_out(engine: Engine, tenant_id: UUID) -> None:
    """Workers that come from no key do not all start with the same one."""
    for key in "0123456789abcdef":  # batch keys are digests
        submit_jobs(engine, tenant_id, 40, key)
    # Sixteen keys, and all of forty workers at the same: one in 16 to the power of 39.
    assert len({take_some(engine, 1).batch_key for _ in range(40)}) > 1


def test_keys_that_others_are_taking(engine: Engine, tenant_id: UUID) -> None:
    """A key all of whose jobs are locked is passed by: in turn, round the end, then downwards."""
    for key, priority in (("a", 0), ("b", 0), ("c", 0), ("d", 1)):
        submit_jobs(engine, tenant_id, 1, key, priority=priority)
    for locked, expected in (("", "b"), ("b", "c"), ("bc", "a"), ("abc", "d")):
        with engine.begin() as connection:
            connection.execute(
                text("SELECT id FROM jobs WHERE batch_key = ANY(:keys) FOR UPDATE"),
                {"keys": list(locked)},
            )
            batch = take(engine, after="a")
        assert batch is not None
        assert batch.batch_key == expected
        release_all(engine, batch)


def test_a_claim_gives_up_among_keys_that_others_are_taking(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many locked keys a claim tries is bounded, at however many keys."""
    monkeypatch.setattr(claim, "KEYS_LOOKED_AT", 2)
    for key in "abcd":
        submit_jobs(engine, tenant_id, 1, key)
    tried = []

    def note(_: Any, _cursor: Any, statement: str, values: Any, *_more: Any) -> None:
        if "WITH urgent" in statement:
            tried.append(values["batch_key"])

    with engine.begin() as connection:
        connection.execute(text("SELECT id FROM jobs FOR UPDATE"))
        with listening(engine, "before_cursor_execute", note):
            assert take(engine, after="b") is None
    assert tried == ["c", "d"]


def test_keys_take_turns(engine: Engine, tenant_id: UUID) -> None:
    """A worker that names the key it comes from gets the next one, and after the last the first."""
    for key in "cab":
        submit_jobs(engine, tenant_id, 2, key)
    keys = []
    after = "b"
    while batch := take(engine, 1, after=after):
        after = batch.batch_key
        keys.append(after)
    assert keys == ["c", "a", "b", "c", "a", "b"]


def test_priority_comes_before_turns(engine: Engine, tenant_id: UUID) -> None:
    """A key whose turn it is waits for one with a more urgent head."""
    submit_jobs(engine, tenant_id, 1, "b")
    submit_jobs(engine, tenant_id, 1, "a", priority=-1)
    found = [take(engine, 1, after="a") for _ in range(2)]
    assert [batch and batch.batch_key for batch in found] == ["a", "b"]


def test_pools_are_apart(engine: Engine, tenant_id: UUID) -> None:
    """A worker gets only what its pool's devices can run."""
    submit_jobs(engine, tenant_id, 1, pool="large")
    assert take(engine) is None
    assert take(engine, pool="large") is not None


def test_only_queued_jobs_are_claimed(engine: Engine, tenant_id: UUID) -> None:
    """What runs already, waits, or is over does not come again."""
    submit_jobs(engine, tenant_id, 4)
    finish_all(engine, take_some(engine, 1))
    running = take_some(engine, 1)
    execute(
        engine,
        """
        UPDATE jobs SET status = 'waiting', wait_reason = 'backoff',
            available_at = clock_timestamp() - interval '1 hour'
        WHERE id = (SELECT max(id::text)::uuid FROM jobs)
        """,
    )
    third = take_some(engine)
    assert len(third.jobs) == 1
    assert ids(third) != ids(running)
    assert take(engine) is None


def test_every_claim_counts_an_attempt(engine: Engine, tenant_id: UUID) -> None:
    """Attempts are counted at the claim, so that a job that kills its worker runs out of them."""
    [job_id] = submit_jobs(engine, tenant_id, 1)
    for attempt in (1, 2):
        batch = take_some(engine)
        assert batch.jobs[0].attempt == job_row(engine, job_id).attempts == attempt
        execute(engine, "UPDATE jobs SET status = 'queued', claim_id = NULL")


def test_a_solo_head_comes_alone(engine: Engine, tenant_id: UUID) -> None:
    """A job whose lease expired once does not take mates with it."""
    first, second, third = submit_jobs(engine, tenant_id, 3)
    execute(engine, "UPDATE jobs SET solo = true WHERE id = :id", id=first)
    assert [ids(batch) for batch in drain(engine)] == [[first], [second, third]]


def test_a_solo_job_is_left_out_of_a_batch(engine: Engine, tenant_id: UUID) -> None:
    """A batch passes a solo job by, and takes those behind it."""
    first, solo, other_solo, last = submit_jobs(engine, tenant_id, 4)
    execute(
        engine, "UPDATE jobs SET solo = true WHERE id IN (:one, :other)", one=solo, other=other_solo
    )
    assert [ids(batch) for batch in drain(engine)] == [[first, last], [solo], [other_solo]]


def test_jobs_of_a_cancelled_campaign_are_dropped(engine: Engine, tenant_id: UUID) -> None:
    """No job of a cancelled campaign is started any more: the claim cancels it instead."""
    campaign_id = submit_campaign(engine, tenant_id, 3)
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    assert take(engine) is None
    assert counts(engine, campaign_id) == {JobStatus.CANCELLED: 3}
    for job_id in campaign_jobs(engine, campaign_id):
        job = job_row(engine, job_id)
        assert (job.attempts, job.claim_id) == (0, None)
    check_books(engine)


def test_the_living_are_claimed_among_the_cancelled(engine: Engine, tenant_id: UUID) -> None:
    """A cancelled campaign does not keep other jobs of its key or of other keys from running."""
    cancelled = submit_campaign(engine, tenant_id, 2, "a", "b")
    living = submit_campaign(engine, tenant_id, 2, "b")
    cancel.cancel_campaign(engine, tenant_id, cancelled)
    batch = take(engine, after="z")  # so it is the turn of the first key, and not of any
    assert batch
    assert ids(batch) == campaign_jobs(engine, living)
    assert counts(engine, living) == {JobStatus.RUNNING: 2}
    assert counts(engine, cancelled) == {JobStatus.CANCELLED: 4}
    check_books(engine)


def test_work_behind_a_cancelled_campaign(engine: Engine, tenant_id: UUID) -> None:
    """A claim does not wait until a large cancelled campaign is out of its way: it goes round."""
    cancelled = [submit_campaign(engine, tenant_id, 10) for _ in range(2)]
    living = submit_jobs(engine, tenant_id, 3)
    for campaign_id in cancelled:
        cancel.cancel_campaign(engine, tenant_id, campaign_id)
    assert ids(take_some(engine, 2)) == living[:2]
    for campaign_id in cancelled:
        assert counts(engine, campaign_id) == {JobStatus.CANCELLED: 2, JobStatus.QUEUED: 8}
    assert ids(take_some(engine, 2)) == living[2:]
    check_books(engine)


def test_claimers_never_share_a_job(engine: Engine, tenant_id: UUID) -> None:
    """However many workers claim at once, every job comes to one of them, in a batch of its key."""
    for number in range(12):
        submit_campaign(engine, tenant_id, 20, f"{number}a", f"{number}b")
        found = together(*[lambda: list(drain(engine, 3))] * 4)
        # Those who met only locked jobs have given up: the last one takes what is left.
        batches = [batch for each in found for batch in each] + list(drain(engine))
        claimed = [job_id for batch in batches for job_id in ids(batch)]
        assert len(claimed) == len(set(claimed)) == 40
        for batch in batches:
            held = rows(engine, "SELECT * FROM jobs WHERE claim_id = :id", id=batch.claim_id)
            assert {row.id for row in held} == set(ids(batch))
            assert {row.batch_key for row in held} == {batch.batch_key}
            assert {row.attempts for row in held} == {1}
        for batch in batches:
            finish_all(engine, batch)
    check_books(engine)


def test_a_claim_does_not_wait_for_another(engine: Engine, tenant_id: UUID) -> None:
    """While one claim is not committed yet, another passes its jobs by and takes the next ones."""
    job_ids = submit_jobs(engine, tenant_id, 5)
    others: list[Batch | None] = []
    with at_commit(engine, lambda _: others.append(take(engine, 2))):
        mine = take_some(engine, 2)
    [other] = others
    assert other is not None
    assert (ids(mine), ids(other)) == (job_ids[:2], job_ids[2:4])


def test_a_claim_whose_answer_was_lost(engine: Engine, tenant_id: UUID) -> None:
    """If COMMIT was done but the client lost the connection, it still gets its batch."""
    job_ids = submit_jobs(engine, tenant_id, 3)
    with at_commit(engine, lose_commit_answer):
        batch = take_some(engine, 2)
    assert ids(batch) == job_ids[:2]
    assert [job_row(engine, job_id).attempts for job_id in job_ids] == [1, 1, 0]
    assert finish_all(engine, batch) == dict.fromkeys(job_ids[:2], JobStatus.SUCCEEDED)
    check_books(engine)


@pytest.mark.parametrize("way", ["before COMMIT", "in the middle"])
def test_a_claim_that_was_not_committed(engine: Engine, tenant_id: UUID, way: str) -> None:
    """A claim whose connection broke before COMMIT gives no batch, and the jobs stay queued."""
    job_ids = submit_jobs(engine, tenant_id, 3)
    if way == "before COMMIT":
        with at_commit(engine, lose_commit):
            batch = take(engine)
    else:
        with at_statement(engine, "INSERT INTO claims", terminate(engine)):
            batch = take(engine)
    assert batch is None
    check_books(engine)
    assert ids(take_some(engine)) == job_ids


def test_claims_that_drop_jobs_do_not_deadlock(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two claims that cancel jobs of the same two campaigns, each from its end, both go through."""
    monkeypatch.setattr(counters, "SLOTS", 1)  # two claims may have the same slot by chance
    campaign_ids = [submit_campaign(engine, tenant_id, 4, "a", "b") for _ in range(2)]
    for campaign_id in campaign_ids:
        cancel.cancel_campaign(engine, tenant_id, campaign_id)
    met = threading.Barrier(2, timeout=LIMIT_S)
    keys_tried: Counter[Any] = Counter()

    def meet(_: Connection, _cursor: Any, statement: str, *_more: Any) -> None:
        if "WITH urgent" in statement:
            keys_tried[threading.get_ident()] += 1
            if keys_tried[threading.get_ident()] == 2:
                met.wait()  # each has dropped jobs of the first campaign, and meets the second

    with no_errors(engine), listening(engine, "before_cursor_execute", meet):
        found = together(*[partial(take, engine, 1, prefer=key) for key in ("a", "b")])
    assert found == [None, None]
    check_books(engine)


def test_queued_pools(engine: Engine, tenant_id: UUID) -> None:
    """Pools with queued work are listed once each, with the workers that were seen lately."""
    assert backlog.queued_pools(engine) == []
    submit_jobs(engine, tenant_id, 3, "a", pool="small")
    submit_jobs(engine, tenant_id, 2, "b", pool="small")
    submit_jobs(engine, tenant_id, 1, "a", pool="large")
    submit_jobs(engine, tenant_id, 1, "a", pool="busy")
    assert take(engine, pool="busy") is not None
    for name, pools in (("one", "small"), ("two", "medium,small"), ("gone", "small")):
        workers.seen(engine, name=name, pool=pools, device="cpu")
    execute(
        engine,
        "UPDATE workers SET seen_at = clock_timestamp() - interval '1 hour' WHERE name = 'gone'",
    )
    assert backlog.queued_pools(engine) == [("large", 0), ("small", 2)]


Plan = Mapping[str, Any]


def plans(engine: Engine, call: Any) -> Iterator[Plan]:
    """The plans of what ``call`` asks about jobs, for its values and for any values."""
    sent: list[tuple[str, Mapping[str, Any]]] = []

    def note(_: Any, _cursor: Any, statement: str, values: Mapping[str, Any], *_more: Any) -> None:
        if "jobs" in statement:
            sent.append((statement, values))

    with listening(engine, "before_cursor_execute", note):
        call()
    with engine.begin() as connection:
        driver = connection_of(connection)
        for statement, values in sent:
            # A statement that is sent often is prepared, and may be planned for any values then.
            numbered = statement
            for number, name in enumerate(values, start=1):
                numbered = numbered.replace(f"%({name})s", f"${number}")
            for explained in (
                driver.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode(), values),
                driver.execute(f"EXPLAIN (FORMAT JSON, GENERIC_PLAN) {numbered}".encode()),
            ):
                [[[plan]]] = explained.fetchall()
                yield plan["Plan"]


def nodes(plan: Plan, above: tuple[str, ...] = ()) -> Iterator[tuple[Plan, tuple[str, ...]]]:
    """Every node of a plan, with the types of those above it."""
    yield plan, above
    for child in plan.get("Plans", ()):
        yield from nodes(child, (*above, child.get("Subplan Name", ""), plan["Node Type"]))


@pytest.fixture
def large(engine: Engine, tenant_id: UUID) -> Engine:
    """Twenty thousand jobs, a tenth of them queued under 20 keys, and fresh statistics."""
    execute(
        engine,
        """
        INSERT INTO jobs (tenant_id, kind, pool, batch_key, request, status, finished_at)
        SELECT :tenant_id, 'image', :pool, 'key' || n % 20, '{}',
               CASE WHEN n % 200 < 20 THEN 'queued' ELSE 'succeeded' END,
               CASE WHEN n % 200 < 20 THEN NULL ELSE clock_timestamp() END
        FROM generate_series(1, 20000) AS n
        """,
        tenant_id=tenant_id,
        pool=POOL,
    )
    execute(engine, "ANALYZE jobs")
    return engine


def test_claim_reads_the_index_in_order(large: Engine) -> None:
    """Claiming looks at the jobs it takes and at no others: by the partial index, unsorted."""
    queued_scans = 0
    for plan in plans(large, lambda: take_some(large, 8)):
        for node, above in nodes(plan):
            if node.get("Relation Name") == "jobs" and node["Node Type"] != "ModifyTable":
                assert node["Node Type"] in ("Index Scan", "Index Only Scan"), json.dumps(plan)
            if node.get("Index Name") == "ix_jobs_turns":
                queued_scans += 1
                assert node["Scan Direction"] == "Forward"
                # What stands between the scan and its LIMIT would read all jobs of the key.
                below_limit = above[len(above) - above[::-1].index("Limit") :]
                assert not {"Sort", "Incremental Sort"} & set(below_limit), json.dumps(plan)
    # Twice each: best priority, tenants and the next of them, up to the end and round it; what is
    # urgent; the tenant's next key; and the urgent jobs, those in turn, and those that fill.
    assert queued_scans == 2 * (2 * 3 + 1 + 1 + 3)


def test_what_is_less_urgent_than_a_cancelled_campaign_does_not_wait(
    engine: Engine, tenant_id: UUID
) -> None:
    """An older job of the same key, of lower priority, is reached past the campaign's jobs."""
    [patient] = submit_jobs(engine, tenant_id, 1, priority=5)
    campaign_id = submit_campaign(engine, tenant_id, 20)
    cancel.cancel_campaign(engine, tenant_id, campaign_id)
    assert ids(take_some(engine, 2)) == [patient]
