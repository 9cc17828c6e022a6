"""What callers may read, always within one tenant."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, RowMapping, TextClause, text

from storage import counters
from storage.lifecycle import FINAL, CampaignStatus, JobStatus, campaign_status

RATE_WINDOW_S = 60
RATE_ARTIFACTS = 512


@dataclass(frozen=True)
class ArtifactView:
    """One stored output of a job. ``facts`` are its kind's: seed, width and height, model."""

    id: UUID
    index: int
    object_key: str
    media_type: str
    sha256: str
    size_bytes: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class JobView:
    """A job as its owner sees it. ``recipient`` and ``creative`` are None outside campaigns.

    ``needs`` are the jobs whose outputs it starts from. ``pause_requested``: unless it has
    ended, it waits to be resumed, or will do so once it does not run any more.
    """

    id: UUID
    kind: str
    status: JobStatus
    campaign_id: UUID | None
    creative: str | None
    recipient: str | None
    priority: int
    attempts: int
    cancel_requested: bool
    wait_reason: str | None
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    artifacts: tuple[ArtifactView, ...]
    needs: tuple[UUID, ...] = ()
    pause_requested: bool = False


@dataclass(frozen=True)
class CampaignView:
    """A campaign and how far it is.

    ``done`` counts the jobs that have ended, however. ``rate`` is artifacts stored per second over
    the last minute, ``left_s`` the seconds that the unfinished jobs will take at that rate; None
    while nothing is being made. With a run window, no job starts from ``closes_at`` to
    ``reopens_at``.
    """

    id: UUID
    name: str
    status: CampaignStatus
    recipients: int
    jobs: int
    done: int
    counts: dict[JobStatus, int]
    rate: float | None
    left_s: float | None
    created_at: datetime
    compiled_at: datetime | None
    closes_at: datetime | None
    reopens_at: datetime | None

    @property
    def over(self) -> bool:
        """Nothing more will happen to it."""
        compiled = self.status is not CampaignStatus.COMPILING
        return compiled and self.done == self.jobs


_JOBS = """
    SELECT jobs.id, jobs.kind, jobs.status, jobs.campaign_id, creatives.name AS creative,
           recipients.key AS recipient, jobs.priority, jobs.attempts, jobs.cancel_requested,
           jobs.pause_requested, jobs.wait_reason, jobs.error, jobs.created_at, jobs.finished_at,
           ARRAY(SELECT need_id FROM job_needs WHERE job_id = jobs.id ORDER BY need_id) AS needs
    FROM jobs
    LEFT JOIN creatives ON creatives.id = jobs.creative_id
    LEFT JOIN recipients ON recipients.id = jobs.recipient_id
    WHERE jobs.tenant_id = :tenant_id
"""


def job(connection: Connection, tenant_id: UUID, job_id: UUID) -> JobView | None:
    """The tenant's job of that id."""
    found = _jobs(
        connection,
        text(_JOBS + "AND jobs.id = :id"),
        {"tenant_id": tenant_id, "id": job_id},
    )
    return found[0] if found else None


def jobs(
    connection: Connection,
    tenant_id: UUID,
    *,
    campaign_id: UUID | None = None,
    status: JobStatus | None = None,
    after: UUID | None = None,
    limit: int = 100,
) -> list[JobView]:
    """Up to ``limit`` of the tenant's jobs in the order of their ids, from behind ``after``."""
    filters = _JOBS
    if campaign_id is not None:
        filters += " AND jobs.campaign_id = :campaign_id"
    if status is not None:
        filters += " AND jobs.status = :status"
    if after is not None:
        filters += " AND jobs.id > :after"
    return _jobs(
        connection,
        text(filters + " ORDER BY jobs.id LIMIT :limit"),
        {
            "tenant_id": tenant_id,
            "campaign_id": campaign_id,
            "status": status,
            "after": after,
            "limit": limit,
        },
    )


def every_job(
    engine: Engine, tenant_id: UUID, campaign_id: UUID, *, page: int = 500
) -> Iterator[JobView]:
    """All jobs of a campaign, in pages with a transaction each: exports take long."""
    after: UUID | None = None
    while True:
        with engine.begin() as connection:
            found = jobs(connection, tenant_id, campaign_id=campaign_id, after=after, limit=page)
        if not found:
            return
        yield from found
        after = found[-1].id


def _jobs(connection: Connection, query: TextClause, values: dict[str, Any]) -> list[JobView]:
    bound = {name: value for name, value in values.items() if f":{name}" in query.text}
    rows = connection.execute(query, bound).mappings().all()
    artifacts = _artifacts(connection, [row["id"] for row in rows])
    return [
        JobView(
            **{**row, "status": JobStatus(row["status"]), "needs": tuple(row["needs"])},
            artifacts=tuple(artifacts.get(row["id"], ())),
        )
        for row in rows
    ]


def _artifacts(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, list[ArtifactView]]:
    found: dict[UUID, list[ArtifactView]] = {}
    rows = connection.execute(
        text("SELECT * FROM artifacts WHERE job_id = ANY(:ids) ORDER BY job_id, index"),
        {"ids": list(job_ids)},
    ).mappings()
    for row in rows:
        found.setdefault(row["job_id"], []).append(_artifact(row))
    return found


def artifact(connection: Connection, tenant_id: UUID, artifact_id: UUID) -> ArtifactView | None:
    """The tenant's artifact of that id."""
    row = (
        connection.execute(
            text("SELECT * FROM artifacts WHERE id = :id AND tenant_id = :tenant_id"),
            {"id": artifact_id, "tenant_id": tenant_id},
        )
        .mappings()
        .first()
    )
    return _artifact(row) if row else None


def _artifact(row: RowMapping) -> ArtifactView:
    return ArtifactView(**{field.name: row[field.name] for field in fields(ArtifactView)})


def campaign(connection: Connection, tenant_id: UUID, campaign_id: UUID) -> CampaignView | None:
    """The tenant's campaign of that id."""
    row = (
        connection.execute(
            text(
                """
            SELECT id, name, status, recipients, jobs, created_at, compiled_at,
                   closes_at, reopens_at
            FROM campaigns WHERE id = :id AND tenant_id = :tenant_id
            """
            ),
            {"id": campaign_id, "tenant_id": tenant_id},
        )
        .mappings()
        .first()
    )
    return _campaign(connection, row) if row else None


def campaigns(
    connection: Connection, tenant_id: UUID, *, before: UUID | None = None, limit: int = 50
) -> list[CampaignView]:
    """The tenant's campaigns, newest first, from behind ``before``."""
    rows = (
        connection.execute(
            text(
                """
            SELECT id, name, status, recipients, jobs, created_at, compiled_at,
                   closes_at, reopens_at
            FROM campaigns
            WHERE tenant_id = :tenant_id
              AND (CAST(:before AS uuid) IS NULL OR id < CAST(:before AS uuid))
            ORDER BY id DESC LIMIT :limit
            """
            ),
            {"tenant_id": tenant_id, "before": before, "limit": limit},
        )
        .mappings()
        .all()
    )
    return [_campaign(connection, row) for row in rows]


def _campaign(connection: Connection, row: RowMapping) -> CampaignView:
    counts = counters.read(connection, row["id"])
    unfinished = sum(n for status, n in counts.items() if status not in FINAL)
    rate = _rate(connection, row["id"]) if unfinished else None
    return CampaignView(
        **{**row, "status": campaign_status(CampaignStatus(row["status"]), counts)},
        done=sum(counts.values()) - unfinished,
        counts=counts,
        rate=rate,
        left_s=unfinished / rate if rate else None,
    )


def _rate(connection: Connection, campaign_id: UUID) -> float | None:
    """Artifacts per second lately, from the newest ones by index: the same at any size."""
    # Until the table is analyzed for the first time, a bitmap of all the campaign's artifacts looks
    # cheaper than their index from its end, and grows with them: 10 ms after a minute.
    connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    row = connection.execute(
        text(
            """
            SELECT count(*) AS made, extract(epoch FROM clock_timestamp() - min(created_at))
                AS seconds
            FROM (SELECT created_at FROM artifacts WHERE campaign_id = :id
                  ORDER BY id DESC LIMIT :most) AS newest
            WHERE created_at > clock_timestamp() - make_interval(secs => :window_s)
            """
        ),
        {"id": campaign_id, "most": RATE_ARTIFACTS, "window_s": RATE_WINDOW_S},
    ).one()
    return row.made / max(float(row.seconds), 1.0) if row.made else None


def parameters(
    connection: Connection, tenant_id: UUID, job_ids: Collection[UUID]
) -> dict[UUID, dict[str, Any]]:
    """What was asked of each of the tenant's jobs; of a campaign's with templates in it."""
    rows = connection.execute(
        text(
            """
            SELECT jobs.id, COALESCE(jobs.request, creatives.parameters) AS parameters
            FROM jobs LEFT JOIN creatives ON creatives.id = jobs.creative_id
            WHERE jobs.id = ANY(:ids) AND jobs.tenant_id = :tenant_id
            """
        ),
        {"ids": list(job_ids), "tenant_id": tenant_id},
    )
    return {row.id: row.parameters for row in rows}
