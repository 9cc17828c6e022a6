"""How work enters: single jobs, campaigns with their recipients, and the fan-out into jobs."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, insert, select, text
from sqlalchemy.exc import IntegrityError

from storage import counters
from storage.ids import recipient_ids
from storage.lifecycle import CampaignStatus, JobStatus, WaitReason
from storage.tables import Campaign, Creative, Job

DUPLICATES_SHOWN = 20

SUBMITTED_CHANNEL = "presswork_submitted"
"""NOTIFY: a campaign waits for its jobs."""


class IdempotencyConflictError(Exception):
    """The idempotency key was used before, for a different request."""


class DuplicateRecipientsError(Exception):
    """Recipients that occur more than once: ``(key, lines)`` each."""

    def __init__(self, duplicates: Sequence[tuple[str, list[int]]]) -> None:
        super().__init__(f"{len(duplicates)} recipients occur more than once")
        self.duplicates = duplicates


class NoRecipientsError(Exception):
    """The campaign would have no jobs."""


@dataclass(frozen=True)
class NewJob:
    """A job outside of any campaign, its request complete."""

    tenant_id: UUID
    kind: str
    pool: str
    batch_key: str
    request: dict[str, Any]
    priority: int = 0
    idempotency_key: str | None = None


@dataclass(frozen=True)
class NewCreative:
    """One creative of a new campaign; ``parameters`` as the fan-out's reader expects them."""

    name: str
    kind: str
    pool: str
    batch_key: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class NewWindow:
    """When a campaign's jobs may start; the fields are those of `storage.tables.Campaign`."""

    closes_at: datetime
    reopens_at: datetime | None
    run_window: dict[str, Any]


@dataclass(frozen=True)
class NewCampaign:
    """A campaign without its recipients, which are streamed."""

    tenant_id: UUID
    name: str
    creatives: Sequence[NewCreative] = field(default_factory=tuple)
    idempotency_key: str | None = None
    request_sha256: str | None = None
    window: NewWindow | None = None


class RecipientRow(Protocol):
    """What is kept of a recipient: its id in the customer's words, and the row's data."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def line(self) -> int: ...  # noqa: D102
    @property
    def row(self) -> dict[str, Any]: ...  # noqa: D102


def submit_job(engine: Engine, job: NewJob) -> UUID:
    """Queue ``job`` and give its id; the first one's id if its idempotency key is known.

    Raises:
        IdempotencyConflictError: the key belongs to another request.
    """
    try:
        with engine.begin() as connection:
            earlier = _earlier_job(connection, job)
            if earlier:
                return earlier
            return connection.execute(
                insert(Job).values(**vars(job), status=JobStatus.QUEUED).returning(Job.id)
            ).scalar_one()
    except IntegrityError:
        # Somebody submitted under the same key since we looked.
        with engine.begin() as connection:
            earlier = _earlier_job(connection, job)
            if earlier is None:
                raise
            return earlier


def _earlier_job(connection: Connection, job: NewJob) -> UUID | None:
    if job.idempotency_key is None:
        return None
    row = connection.execute(
        select(Job.id, Job.kind, Job.request).where(
            Job.tenant_id == job.tenant_id, Job.idempotency_key == job.idempotency_key
        )
    ).first()
    if row is None:
        return None
    if (row.kind, row.request) != (job.kind, job.request):
        raise IdempotencyConflictError
    return UUID(str(row.id))


def find_campaign(engine: Engine, campaign: NewCampaign) -> UUID | None:
    """The campaign that was submitted under the same idempotency key.

    Raises:
        IdempotencyConflictError: the key belongs to another request.
    """
    if campaign.idempotency_key is None:
        return None
    with engine.begin() as connection:
        row = connection.execute(
            select(Campaign.id, Campaign.request_sha256).where(
                Campaign.tenant_id == campaign.tenant_id,
                Campaign.idempotency_key == campaign.idempotency_key,
            )
        ).first()
    if row is None:
        return None
    if row.request_sha256 != campaign.request_sha256:
        raise IdempotencyConflictError
    return UUID(str(row.id))


def submit_campaign(
    engine: Engine, campaign: NewCampaign, recipients: Iterable[RecipientRow]
) -> UUID:
    """Store the campaign and stream its recipients into SQL; all of it or nothing.

    Its jobs come later, by `fan_out`. Whatever ``recipients`` raises undoes everything.

    Raises:
        DuplicateRecipientsError: naming each key and the lines on which it stands.
        NoRecipientsError: there were none.
        IdempotencyConflictError: as in `find_campaign`.
    """
    try:
        with engine.begin() as connection:
            return store_campaign(connection, campaign, recipients)
    except IntegrityError:
        earlier = find_campaign(engine, campaign)
        if earlier is None:
            raise
        return earlier


def store_campaign(
    connection: Connection, campaign: NewCampaign, recipients: Iterable[RecipientRow]
) -> UUID:
    """`submit_campaign` within the caller's transaction, which must not outlive an error.

    Raises:
        DuplicateRecipientsError: naming each key and the lines on which it stands.
        NoRecipientsError: there were none.
    """
    campaign_id = _insert_campaign(connection, campaign)
    count = _copy_recipients(connection, campaign_id, recipients)
    if not count:
        raise NoRecipientsError
    _check_unique(connection, campaign_id)
    connection.execute(
        text("UPDATE campaigns SET recipients = :count WHERE id = :id"),
        {"count": count, "id": campaign_id},
    )
    connection.exec_driver_sql(f"NOTIFY {SUBMITTED_CHANNEL}")
    return campaign_id


def _insert_campaign(connection: Connection, campaign: NewCampaign) -> UUID:
    campaign_id: UUID = connection.execute(
        insert(Campaign)
        .values(
            tenant_id=campaign.tenant_id,
            name=campaign.name,
            status=CampaignStatus.COMPILING,
            idempotency_key=campaign.idempotency_key,
            request_sha256=campaign.request_sha256,
            recipients=0,
            **(vars(campaign.window) if campaign.window else {}),
        )
        .returning(Campaign.id)
    ).scalar_one()
    connection.execute(
        insert(Creative),
        [
            {"campaign_id": campaign_id, "ordinal": ordinal, **vars(creative)}
            for ordinal, creative in enumerate(campaign.creatives)
        ],
    )
    return campaign_id


def _copy_recipients(
    connection: Connection, campaign_id: UUID, recipients: Iterable[RecipientRow]
) -> int:
    count = 0
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    # Half of a row's time is Python's: no encoder is made per row, and no UUID is turned to text.
    encode = json.JSONEncoder(ensure_ascii=False).encode
    campaign = str(campaign_id)
    with (
        driver.cursor() as cursor,
        cursor.copy("COPY recipients (id, campaign_id, line, key, data) FROM STDIN") as copy,
    ):
        for id_, recipient in zip(recipient_ids(), recipients, strict=False):
            copy.write_row((id_, campaign, recipient.line, recipient.key, encode(recipient.row)))
            count += 1
    return count


def _check_unique(connection: Connection, campaign_id: UUID) -> None:
    """Look at the deferred constraint now; what it refuses is then searched for by name."""
    try:
        with connection.begin_nested():
            # Free of charge where nothing collided, whatever the number of rows.
            connection.exec_driver_sql("SET CONSTRAINTS uq_recipients_campaign_id_key IMMEDIATE")
    except IntegrityError as error:
        raise DuplicateRecipientsError(_duplicates(connection, campaign_id)) from error


def _duplicates(connection: Connection, campaign_id: UUID) -> list[tuple[str, list[int]]]:
    rows = connection.execute(
        text(
            """
            SELECT key, array_agg(line ORDER BY line) FROM recipients WHERE campaign_id = :id
            GROUP BY key HAVING count(*) > 1 ORDER BY min(line) LIMIT :shown
            """
        ),
        {"id": campaign_id, "shown": DUPLICATES_SHOWN},
    )
    return [(key, list(lines)) for key, lines in rows]


@dataclass(frozen=True)
class FannedOut:
    """A campaign whose jobs have just become visible."""

    campaign_id: UUID
    jobs: int


FAN_OUT_IDLE_S = 30


def fan_out(engine: Engine) -> Iterator[FannedOut]:
    """Make the jobs of every campaign that waits for it, one transaction each.

    The lock on the campaign's row is the lease: others skip it, it ends with the connection, and
    a process that stalls while it holds it is cut off by the server after ``FAN_OUT_IDLE_S``. A
    fan-out that was interrupted has left nothing behind, and the next caller does it again.
    """
    while True:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"SET LOCAL idle_in_transaction_session_timeout = '{FAN_OUT_IDLE_S}s'"
            )
            campaign_id = connection.execute(
                text(
                    """
                    SELECT id FROM campaigns WHERE status = 'compiling'
                    -- Not the oldest: one that fails must not hold up the others for ever.
                    ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED
                    """
                )
            ).scalar()
            if campaign_id is None:
                return
            done = _fan_out_one(connection, campaign_id)
        yield done


def _fan_out_one(connection: Connection, campaign_id: UUID) -> FannedOut:
    # Made before its run window opens, its jobs wait for that.
    opens_at = connection.execute(
        text(
            """
            SELECT CASE WHEN closes_at <= clock_timestamp() THEN reopens_at END
            FROM campaigns WHERE id = :id
            """
        ),
        {"id": campaign_id},
    ).scalar()
    status = JobStatus.QUEUED if opens_at is None else JobStatus.WAITING
    jobs = connection.execute(
        text(
            """
            INSERT INTO jobs (id, tenant_id, campaign_id, creative_id, recipient_id,
                              kind, pool, batch_key, status, wait_reason, available_at)
            SELECT CAST(left(CAST(recipients.id AS text), 32) ||
                            lpad(to_hex(CAST(creatives.ordinal AS int)), 4, '0') AS uuid),
                   campaigns.tenant_id, campaigns.id, creatives.id, recipients.id,
                   creatives.kind, creatives.pool, creatives.batch_key,
                   :status, :wait_reason, CAST(:opens_at AS timestamptz)
            FROM campaigns
            JOIN recipients ON recipients.campaign_id = campaigns.id
            JOIN creatives ON creatives.campaign_id = campaigns.id
            WHERE campaigns.id = :id
            -- In the order of the new ids, so that indexes grow at their ends.
            ORDER BY recipients.id, creatives.ordinal
            """
        ),
        {
            "id": campaign_id,
            "status": status,
            "wait_reason": WaitReason.WINDOW if opens_at else None,
            "opens_at": opens_at,
        },
    ).rowcount
    connection.execute(
        text(
            """
            UPDATE campaigns SET status = 'running', jobs = :jobs, compiled_at = clock_timestamp()
            WHERE id = :id AND status = 'compiling'
            """
        ),
        {"id": campaign_id, "jobs": jobs},
    )
    counters.add(connection, campaign_id, Counter({(campaign_id, status): jobs}))
    return FannedOut(campaign_id, jobs)


def refresh_statistics(engine: Engine) -> None:
    """Tell the planner of what has come in bulk, instead of leaving it to autovacuum's next visit.

    It also makes sessions drop the plans that they have kept from when the tables were small: with
    those a claim from 300,000 jobs took 700 ms instead of 2.
    """
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE jobs, recipients")
