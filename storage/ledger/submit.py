"""How work enters: single jobs, and campaigns with their recipients."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, func, insert, literal_column, select, text
from sqlalchemy.exc import IntegrityError

from storage.ids import recipient_ids
from storage.ledger import new_needs
from storage.ledger.new_needs import NeedBusyError
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
    """A job outside of any campaign, its request complete; ``needs`` are the jobs it names."""

    tenant_id: UUID
    kind: str
    pool: str
    batch_key: str
    request: dict[str, Any]
    priority: int = 0
    idempotency_key: str | None = None
    needs: Collection[UUID] = ()


@dataclass(frozen=True)
class NewCreative:
    """One creative of a new campaign; ``parameters`` as the fan-out's reader expects them.

    ``needs`` are the names of others, in no circle.
    """

    name: str
    kind: str
    pool: str
    batch_key: str
    parameters: dict[str, Any]
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class NewWindow:
    """When a campaign's jobs may start; the fields are those of `storage.tables.Campaign`."""

    closes_at: datetime
    reopens_at: datetime | None = None
    run_window: dict[str, Any] | None = None


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

    With needs that have yet to succeed it waits for them.

    Raises:
        IdempotencyConflictError: the key belongs to another request.
        NeedError: it needs what there is not, or what has ended without success.
        TooDeepError: too many others stand in a row before it.
    """
    while True:
        try:
            with engine.begin() as connection:
                return _earlier_job(connection, job) or _insert_job(connection, job)
        except NeedBusyError as busy:
            new_needs.wait(engine, busy.need_id)
        except IntegrityError:
            # Somebody submitted under the same key since we looked.
            with engine.begin() as connection:
                earlier = _earlier_job(connection, job)
                if earlier is None:
                    raise
                return earlier


def _insert_job(connection: Connection, job: NewJob) -> UUID:
    values: dict[str, Any] = {**vars(job), "status": JobStatus.QUEUED}
    del values["needs"]
    if job.needs:
        if not new_needs.hold(connection, job.tenant_id, job.needs):
            values |= {
                "status": JobStatus.WAITING,
                "wait_reason": WaitReason.NEED,
                # Not by time: it never comes up for `recover.promote`.
                "available_at": literal_column("CAST('infinity' AS timestamptz)"),
            }
        # Above those of its needs, even if the clock was set back since they came.
        behind = func.uuid_extract_timestamp(max(job.needs)) - func.clock_timestamp()
        shift = func.greatest(text("interval '0'"), behind + text("interval '1 ms'"))
        values["id"] = func.uuidv7(shift)
    job_id: UUID = connection.execute(insert(Job).values(**values).returning(Job.id)).scalar_one()
    if job.needs:
        new_needs.add(connection, job_id, job.needs)
    return job_id


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

    Its jobs come later, by `fanout.fan_out`. Whatever ``recipients`` raises undoes everything.

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
            **_given(campaign.window),
        )
        .returning(Campaign.id)
    ).scalar_one()
    connection.execute(
        insert(Creative),
        [
            {"campaign_id": campaign_id, "ordinal": ordinal, **vars(creative)}
            for ordinal, creative in enumerate(_needs_first(campaign.creatives))
        ],
    )
    return campaign_id


def _given(window: NewWindow | None) -> dict[str, Any]:
    return {name: value for name, value in vars(window).items() if value} if window else {}


def _needs_first(creatives: Sequence[NewCreative]) -> list[NewCreative]:
    """In their order, but each behind what it needs: so are the ids of its jobs."""
    left, ordered = list(creatives), list[NewCreative]()
    while left:
        there = {creative.name for creative in ordered}
        ready = next((creative for creative in left if there.issuperset(creative.needs)), None)
        assert ready is not None, "needs go in a circle"
        ordered.append(ready)
        left.remove(ready)
    return ordered


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
