"""How work enters: once per idempotency key, whole or not at all, byte for byte."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from storage import tenants
from storage.ledger import fanout, submit
from storage.ledger.submit import (
    DUPLICATES_SHOWN,
    DuplicateRecipientsError,
    IdempotencyConflictError,
    NewCampaign,
    NewCreative,
    NoRecipientsError,
)
from storage.lifecycle import JobStatus
from tests.integration.ledger_cases import (
    RecipientCase,
    at_commit,
    at_statement,
    campaign_jobs,
    counts,
    fan_out,
    finish_all,
    job_row,
    new_campaign,
    new_job,
    recipient_rows,
    rows,
    take_some,
    terminate,
    together,
    value,
)

UNUSUAL = [
    "藍色的馬克杯。五折",
    "🎨👩🏽‍🎨 e\u0301",
    """'single' "double" `back` $$dollar$$""",
    "line\nline\r\nline\rline",
    "back\\slash \\n \\\\ \\",
    "\ttabs\t",
    "\\N",
    "\\.",
    "=cmd()",
    "%s {} :name {{ x }} --",
    " \u00a0spaced\u2028\u200f ",
    "\x01\x1b\x7f\ufeff\uffff",
    "NULL",
    "",
]


def stored(engine: Engine) -> tuple[int, ...]:
    """How many campaigns, creatives, recipients, jobs and counters there are."""
    tables = ("campaigns", "creatives", "recipients", "jobs", "campaign_counters")
    return tuple(value(engine, f"SELECT count(*) FROM {table}") for table in tables)  # noqa: S608


def test_a_job_is_queued(engine: Engine, tenant_id: UUID) -> None:
    """A submitted job is there, queued, with all that was said about it."""
    job = new_job(tenant_id, "a", priority=-5, idempotency_key="k")
    row = job_row(engine, submit.submit_job(engine, job))
    assert (row.status, row.attempts, row.finished_at, row.claim_id) == ("queued", 0, None, None)
    columns = {name: value for name, value in vars(job).items() if name != "needs"}
    assert {name: getattr(row, name) for name in columns} == columns


def test_same_key_same_job(engine: Engine, tenant_id: UUID) -> None:
    """A request that comes again under its key gets the first one's id, also once it is done."""
    job = new_job(tenant_id, idempotency_key="k", request={"prompt": "杯", "guidance": 0.1, "n": 1})
    first = submit.submit_job(engine, job)
    assert submit.submit_job(engine, job) == first
    finish_all(engine, take_some(engine))
    assert submit.submit_job(engine, job) == first
    assert value(engine, "SELECT count(*) FROM jobs") == 1


@pytest.mark.parametrize("change", [{"request": {"prompt": "cup"}}, {"kind": "text"}])
def test_same_key_other_job(engine: Engine, tenant_id: UUID, change: dict[str, Any]) -> None:
    """A key that stands for one request is not taken for another."""
    submit.submit_job(engine, new_job(tenant_id, idempotency_key="k"))
    with pytest.raises(IdempotencyConflictError):
        submit.submit_job(engine, new_job(tenant_id, idempotency_key="k", **change))
    assert value(engine, "SELECT count(*) FROM jobs") == 1


def test_keys_belong_to_tenants(engine: Engine, tenant_id: UUID) -> None:
    """Two tenants may use the same key for different jobs."""
    with engine.begin() as connection:
        other_id = tenants.ensure(connection, "other")
    first = submit.submit_job(engine, new_job(tenant_id, idempotency_key="k"))
    second = submit.submit_job(engine, new_job(other_id, idempotency_key="k", request={"x": 1}))
    assert first != second


def test_jobs_without_a_key_are_never_the_same(engine: Engine, tenant_id: UUID) -> None:
    """Equal requests without a key are two jobs."""
    assert len({submit.submit_job(engine, new_job(tenant_id)) for _ in range(2)}) == 2


def test_same_key_at_the_same_time(engine: Engine, tenant_id: UUID) -> None:
    """Of many submits at once under one key, one makes the job and all get its id."""
    for number in range(10):
        job = new_job(tenant_id, idempotency_key=f"k{number}")
        found = together(*[lambda job=job: submit.submit_job(engine, job)] * 6)
        assert len(set(found)) == 1
    assert value(engine, "SELECT count(*) FROM jobs") == 10


def test_another_submit_got_in_between(engine: Engine, tenant_id: UUID) -> None:
    """The submit that looked in vain and then came second gets the other one's id."""
    job = new_job(tenant_id, idempotency_key="k")
    other: list[UUID] = []

    def get_in_between(_: Connection) -> None:
        other.append(submit.submit_job(engine, job))

    with at_statement(engine, "INSERT INTO jobs", get_in_between):
        assert submit.submit_job(engine, job) == other[0]
    assert value(engine, "SELECT count(*) FROM jobs") == 1


def test_another_request_got_in_between(engine: Engine, tenant_id: UUID) -> None:
    """The submit that looked in vain and then came second learns that the key is taken."""

    def get_in_between(_: Connection) -> None:
        submit.submit_job(engine, new_job(tenant_id, idempotency_key="k", request={"x": 1}))

    with (
        at_statement(engine, "INSERT INTO jobs", get_in_between),
        pytest.raises(IdempotencyConflictError),
    ):
        submit.submit_job(engine, new_job(tenant_id, idempotency_key="k"))
    assert value(engine, "SELECT count(*) FROM jobs") == 1


def test_a_campaign_is_stored(engine: Engine, tenant_id: UUID) -> None:
    """A submitted campaign waits for its jobs, with all recipients and creatives in order."""
    campaign_id = submit.submit_campaign(
        engine, new_campaign(tenant_id, "a", "b"), recipient_rows(3)
    )
    [campaign] = rows(engine, "SELECT * FROM campaigns")
    assert (campaign.id, campaign.status, campaign.recipients) == (campaign_id, "compiling", 3)
    found = rows(engine, "SELECT key, line, data FROM recipients ORDER BY id")
    assert [tuple(row) for row in found] == [
        ("r0", 1, {"number": 0}),
        ("r1", 2, {"number": 1}),
        ("r2", 3, {"number": 2}),
    ]
    creatives = rows(engine, "SELECT name, batch_key FROM creatives ORDER BY ordinal")
    assert [tuple(row) for row in creatives] == [("creative0", "a"), ("creative1", "b")]
    assert stored(engine) == (1, 2, 3, 0, 0)


def test_a_reader_that_fails_leaves_nothing(engine: Engine, tenant_id: UUID) -> None:
    """What the recipients' reader raises in the middle comes out as it is and undoes everything."""
    sent = 0

    def reader() -> Iterator[RecipientCase]:
        nonlocal sent
        # So many that the first ones have long been sent to the server.
        for recipient in recipient_rows(5000):
            yield recipient
            sent += 1
        raise ValueError("line 5001")

    with pytest.raises(ValueError, match="line 5001"):
        submit.submit_campaign(engine, new_campaign(tenant_id), reader())
    assert sent == 5000
    assert stored(engine) == (0, 0, 0, 0, 0)


def test_a_lost_connection_leaves_nothing(engine: Engine, tenant_id: UUID) -> None:
    """A session that ends before COMMIT leaves nothing, and the same submit can be made again."""
    campaign = new_campaign(tenant_id, idempotency_key="k", request_sha256="1")
    with (
        at_statement(engine, "UPDATE campaigns SET recipients", terminate(engine)),
        pytest.raises(DBAPIError),
    ):
        submit.submit_campaign(engine, campaign, recipient_rows(10))
    assert stored(engine) == (0, 0, 0, 0, 0)
    submit.submit_campaign(engine, campaign, recipient_rows(10))
    assert stored(engine) == (1, 1, 10, 0, 0)


def test_duplicates_are_named(engine: Engine, tenant_id: UUID) -> None:
    """Every recipient that occurs twice is named with its lines, and nothing is stored."""
    keys = ["a", "b", "c", "b", "a", "b"]
    recipients = [RecipientCase(key, line) for line, key in enumerate(keys, start=2)]
    with pytest.raises(DuplicateRecipientsError) as caught:
        submit.submit_campaign(engine, new_campaign(tenant_id), recipients)
    assert caught.value.duplicates == [("a", [2, 6]), ("b", [3, 5, 7])]
    assert stored(engine) == (0, 0, 0, 0, 0)


def test_not_all_duplicates_are_named(engine: Engine, tenant_id: UUID) -> None:
    """A file that was pasted twice does not give a message of the file's length."""
    twice = itertools.chain(recipient_rows(100), recipient_rows(100))
    with pytest.raises(DuplicateRecipientsError) as caught:
        submit.submit_campaign(engine, new_campaign(tenant_id), twice)
    named = [key for key, _ in caught.value.duplicates]
    assert named == [f"r{number}" for number in range(DUPLICATES_SHOWN)]


def test_keys_may_repeat_across_campaigns(engine: Engine, tenant_id: UUID) -> None:
    """The same recipients in two campaigns are no duplicates."""
    for _ in range(2):
        submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(3))
    assert stored(engine) == (2, 2, 6, 0, 0)


def test_no_recipients(engine: Engine, tenant_id: UUID) -> None:
    """A campaign for nobody is refused, and nothing is stored."""
    with pytest.raises(NoRecipientsError):
        submit.submit_campaign(engine, new_campaign(tenant_id), [])
    assert stored(engine) == (0, 0, 0, 0, 0)


def test_same_key_same_campaign(engine: Engine, tenant_id: UUID) -> None:
    """A campaign that comes again under its key gets the first one's id, and is stored once."""
    campaign = new_campaign(tenant_id, idempotency_key="k", request_sha256="1")
    assert submit.find_campaign(engine, campaign) is None
    first = submit.submit_campaign(engine, campaign, recipient_rows(3))
    assert submit.find_campaign(engine, campaign) == first
    assert submit.submit_campaign(engine, campaign, recipient_rows(3)) == first
    assert stored(engine) == (1, 1, 3, 0, 0)


def test_same_key_other_campaign(engine: Engine, tenant_id: UUID) -> None:
    """A key that stands for one campaign is not taken for another."""
    campaign = new_campaign(tenant_id, idempotency_key="k", request_sha256="1")
    other = new_campaign(tenant_id, idempotency_key="k", request_sha256="2")
    submit.submit_campaign(engine, campaign, recipient_rows(3))
    with pytest.raises(IdempotencyConflictError):
        submit.find_campaign(engine, other)
    with pytest.raises(IdempotencyConflictError):
        submit.submit_campaign(engine, other, recipient_rows(3))
    assert stored(engine) == (1, 1, 3, 0, 0)


def test_same_campaign_at_the_same_time(engine: Engine, tenant_id: UUID) -> None:
    """Of many submits at once under one key, one makes the campaign and all get its id."""
    campaign = new_campaign(tenant_id, idempotency_key="k", request_sha256="1")

    def submit_it() -> UUID:
        return submit.submit_campaign(engine, campaign, recipient_rows(50))

    assert len(set(together(*[submit_it] * 4))) == 1
    assert stored(engine) == (1, 1, 50, 0, 0)


@pytest.mark.parametrize("odd", UNUSUAL)
def test_unusual_text_survives(engine: Engine, tenant_id: UUID, odd: str) -> None:
    """What is sent by COPY is read back byte for byte, by SQL and by the worker that claims."""
    campaign = NewCampaign(
        tenant_id, odd, [NewCreative(odd, "image", "default", "a", {"prompt": odd, odd: [odd]})]
    )
    row = {"value": odd, odd: {"deep": [odd, None, 1.5, True]}}
    submit.submit_campaign(engine, campaign, [RecipientCase(odd, 1, row)])
    fan_out(engine)
    assert bytes(value(engine, "SELECT convert_to(key, 'UTF8') FROM recipients")) == odd.encode()
    assert (
        bytes(value(engine, "SELECT convert_to(data ->> 'value', 'UTF8') FROM recipients"))
        == odd.encode()
    )
    [job] = take_some(engine).jobs
    assert job.part is not None
    assert (job.part.creative, job.part.recipient_key) == (odd, odd)
    assert (job.part.row, job.part.parameters) == (row, {"prompt": odd, odd: [odd]})


def test_fan_out_order(engine: Engine, tenant_id: UUID) -> None:
    """Job ids follow the recipients in their order, and for each the creatives in theirs."""
    # Names and batch keys in an order of their own, so that neither can be what sorts the jobs.
    campaign_id = submit.submit_campaign(
        engine, new_campaign(tenant_id, "z", "a", "m"), recipient_rows(40)
    )
    assert fan_out(engine) == {campaign_id: 120}
    found = rows(
        engine,
        """
        SELECT recipients.line, jobs.batch_key FROM jobs
        JOIN recipients ON recipients.id = recipient_id ORDER BY jobs.id
        """,
    )
    assert [tuple(row) for row in found] == [
        (line, key) for line in range(1, 41) for key in ("z", "a", "m")
    ]
    assert counts(engine, campaign_id) == {JobStatus.QUEUED: 120}
    [campaign] = rows(engine, "SELECT status, jobs, compiled_at IS NOT NULL FROM campaigns")
    assert tuple(campaign) == ("running", 120, True)


def test_ids_of_a_campaign(engine: Engine, tenant_id: UUID) -> None:
    """They are UUIDv7 of now, ascending; a job's tells its recipient and its creative."""
    before = datetime.now(UTC)
    submit.submit_campaign(engine, new_campaign(tenant_id, "a", "b"), recipient_rows(300))
    fan_out(engine)
    found = rows(
        engine,
        """
        SELECT jobs.id, recipients.id AS recipient_id, uuid_extract_version(jobs.id) AS version,
               uuid_extract_timestamp(jobs.id) AS at, creatives.ordinal
        FROM jobs
        JOIN recipients ON recipients.id = jobs.recipient_id
        JOIN creatives ON creatives.id = jobs.creative_id
        ORDER BY recipients.line, creatives.ordinal
        """,
    )
    assert len(found) == 600
    assert [row.id for row in found] == sorted(row.id for row in found)
    millisecond = timedelta(milliseconds=1)
    for row in found:
        assert row.version == 7
        assert before - millisecond <= row.at <= datetime.now(UTC)
        assert row.id.int == row.recipient_id.int + row.ordinal


def test_fan_out_takes_every_campaign(engine: Engine, tenant_id: UUID) -> None:
    """One call makes the jobs of all campaigns that wait, and a second none."""
    campaign_ids = [
        submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(count))
        for count in (1, 2, 3)
    ]
    assert fan_out(engine) == dict(zip(campaign_ids, (1, 2, 3), strict=True))
    assert fan_out(engine) == {}


def test_jobs_appear_all_at_once(engine: Engine, tenant_id: UUID) -> None:
    """Whoever looks while the fan-out is at work sees a compiling campaign without jobs."""
    submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(50))
    seen: list[tuple[int, ...]] = []

    def look(_: Connection) -> None:
        seen.append((*stored(engine), value(engine, "SELECT jobs FROM campaigns")))

    with at_commit(engine, look):
        fan_out(engine)
    assert seen == [(1, 1, 50, 0, 0, 0)]
    assert stored(engine) == (1, 1, 50, 50, 1)


def interrupt(_: Connection) -> None:
    """For `at_statement`: the process ends here."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("part", ["INSERT INTO jobs", "UPDATE campaigns", "INSERT INTO campaign_c"])
@pytest.mark.parametrize("way", ["terminated", "interrupted"])
def test_interrupted_fan_out(engine: Engine, tenant_id: UUID, part: str, way: str) -> None:
    """A fan-out that ends in the middle leaves nothing, and the next call completes it."""
    submit.submit_campaign(engine, new_campaign(tenant_id, "a", "b"), recipient_rows(50))
    act = terminate(engine) if way == "terminated" else interrupt
    with at_statement(engine, part, act), pytest.raises((DBAPIError, KeyboardInterrupt)):
        fan_out(engine)
    assert stored(engine) == (1, 2, 50, 0, 0)
    assert value(engine, "SELECT status FROM campaigns") == "compiling"
    [(campaign_id, jobs)] = fan_out(engine).items()
    assert jobs == 100
    assert counts(engine, campaign_id) == {JobStatus.QUEUED: 100}


def test_a_second_fan_out_does_not_wait(engine: Engine, tenant_id: UUID) -> None:
    """While one fan-out is at work on a campaign, another passes it by and takes the others."""
    campaign_ids = {
        submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(5)) for _ in range(3)
    }
    others: list[dict[UUID, int]] = []
    with at_statement(engine, "INSERT INTO jobs", lambda _: others.append(fan_out(engine))):
        [mine] = fan_out(engine)
    assert others == [dict.fromkeys(campaign_ids - {mine}, 5)]


def test_fan_outs_at_once_make_the_jobs_once(engine: Engine, tenant_id: UUID) -> None:
    """However many sweepers run, every campaign's jobs are made by one of them."""
    for _ in range(5):
        campaign_ids = [
            submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(20))
            for _ in range(4)
        ]
        done = together(*[lambda: fan_out(engine)] * 3)
        assert sorted(itertools.chain(*done)) == sorted(campaign_ids)
        assert all(len(campaign_jobs(engine, each)) == 20 for each in campaign_ids)
        assert all(counts(engine, each) == {JobStatus.QUEUED: 20} for each in campaign_ids)


def test_fan_out_of_a_stalled_process_is_cut_off(
    engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stops in the middle loses its session, and with it the campaign's lock."""
    monkeypatch.setattr(fanout, "FAN_OUT_IDLE_S", 0.05)
    campaign_id = submit.submit_campaign(engine, new_campaign(tenant_id), recipient_rows(5))
    taken_over: list[dict[UUID, int]] = []

    def stall(_: Connection) -> None:
        # Waits for the row's lock, which only the end of the stalled session can give.
        rows(engine, "SELECT FROM campaigns WHERE id = :id FOR UPDATE", id=campaign_id)
        taken_over.append(fan_out(engine))

    with at_statement(engine, "INSERT INTO jobs", stall), pytest.raises(DBAPIError):
        fan_out(engine)
    assert taken_over == [{campaign_id: 5}]
    assert counts(engine, campaign_id) == {JobStatus.QUEUED: 5}
