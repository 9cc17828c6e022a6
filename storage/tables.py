"""The tables, typed. Migrations must equal them; a test holds that."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from storage import base
from storage.base import idempotency, in_, now
from storage.lifecycle import (
    FINAL,
    CampaignStatus,
    JobStatus,
    RunStatus,
    RunTrigger,
    WaitReason,
)

Base = base.Base
"""The base of all tables. Whoever takes it from here has them all in its metadata."""


class Tenant(Base):
    """Who pays and who may see."""

    __tablename__ = "tenants"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=now)
    # What a training may have at most; None: as the deployment's settings say.
    train_max_steps: Mapped[int | None]
    train_max_hours: Mapped[float | None]
    train_max_pictures: Mapped[int | None]


class ApiKey(Base):
    """A key's digest; the key itself is shown once and never stored."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    key_sha256: Mapped[str] = mapped_column(unique=True)
    is_admin: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=now)
    revoked_at: Mapped[datetime | None]


class Model(Base):
    """A registered model: `storage.models.ModelCard` as a row."""

    __tablename__ = "models"
    __table_args__ = (
        # Everybody's models have names without one: nobody takes another's.
        CheckConstraint("tenant_id IS NULL OR strpos(name, '/') > 0", name="own_name"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    family: Mapped[str]
    kind: Mapped[str]
    source: Mapped[str]
    revision: Mapped[str]
    licence: Mapped[str]
    pool: Mapped[str]
    size_multiple_px: Mapped[int]
    max_side_px: Mapped[int]
    default_size: Mapped[str]
    default_steps: Mapped[int]
    default_guidance: Mapped[float]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    manifest: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    manifest_sha256: Mapped[str | None]
    base: Mapped[str | None]
    commercial: Mapped[bool] = mapped_column(server_default=text("false"))
    attribution: Mapped[str | None]
    licence_until: Mapped[date | None]
    tenant_id: Mapped[UUID | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=now)
    retired_at: Mapped[datetime | None]


class Dataset(Base):
    """What a tenant trains models on: `storage.datasets.Dataset` as a row."""

    __tablename__ = "datasets"
    __table_args__ = (
        CheckConstraint("kind IN ('pictures', 'text')", name="kind"),
        UniqueConstraint("tenant_id", "name"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    kind: Mapped[str]
    licence: Mapped[str]
    consent: Mapped[str]
    attribution: Mapped[str | None]
    trigger: Mapped[str | None]
    count: Mapped[int]
    digest: Mapped[str]
    manifest_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=now)
    removed_at: Mapped[datetime | None]


class Campaign(Base):
    """One bulk request. While ``compiling``, its jobs do not exist yet; then all of them do.

    From ``closes_at`` on no job of it starts. At ``reopens_at`` a sweeper sets both anew, from
    ``run_window``; without one what has not started by then expires: ``closes_at`` is its deadline.
    Both are None where neither was asked for, and once the campaign is over.
    """

    __tablename__ = "campaigns"
    __table_args__ = (
        CheckConstraint(
            in_("status", sorted(set(CampaignStatus) - {CampaignStatus.FINISHED})), name="status"
        ),
        idempotency("campaigns"),
        Index("ix_campaigns_tenant_id_id", "tenant_id", "id"),
        Index("ix_campaigns_compiling", "id", postgresql_where=text("status = 'compiling'")),
        Index(
            "ix_campaigns_reconcile_at",
            "reconcile_at",
            postgresql_where=text("reconcile_at IS NOT NULL"),
        ),
        Index(
            "ix_campaigns_closes_at", "closes_at", postgresql_where=text("closes_at IS NOT NULL")
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    status: Mapped[str]
    idempotency_key: Mapped[str | None]
    request_sha256: Mapped[str | None]
    recipients: Mapped[int]
    jobs: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=now)
    compiled_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    closes_at: Mapped[datetime | None]
    reopens_at: Mapped[datetime | None]
    run_window: Mapped[dict[str, Any] | None]
    reconcile_at: Mapped[datetime | None] = mapped_column(
        server_default=text("(clock_timestamp() + '01:00:00'::interval)")
    )
    """When its counters are compared with its rows next; None: they were, after its end."""


class Creative(Base):
    """One thing to make per recipient: parameters, some of them Liquid templates."""

    __tablename__ = "creatives"
    __table_args__ = (UniqueConstraint("campaign_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaigns.id"))
    ordinal: Mapped[int] = mapped_column(SmallInteger)
    name: Mapped[str]
    kind: Mapped[str]
    pool: Mapped[str]
    batch_key: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    needs: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    """The creatives of the campaign whose outputs for the same recipient it starts from."""


class Recipient(Base):
    """One row of the campaign's data: personal data, kept here and nowhere else.

    No foreign keys here nor in `Job`: a check per row doubles the time of a million-row insert,
    and both are written by one ledger function each, in one transaction with what they refer to.
    """

    __tablename__ = "recipients"
    __table_args__ = (
        # Deferred, so that all duplicates of a file can be named before the commit refuses them.
        UniqueConstraint("campaign_id", "key", deferrable=True, initially="DEFERRED"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    campaign_id: Mapped[UUID]
    line: Mapped[int]
    key: Mapped[str]
    data: Mapped[dict[str, Any]]


class Claim(Base):
    """A worker's time-limited right to a batch. Its id is the jobs' fencing token."""

    __tablename__ = "claims"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    worker: Mapped[str]
    batch_key: Mapped[str]
    lease_s: Mapped[float]
    lease_until: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=now)


class Job(Base):
    """The unit of work with an ID that is polled.

    A campaign's job has no request of its own: it is rendered from creative and recipient when
    it is claimed. Few columns change and few indexes exist, since no change of status can be HOT.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(in_("status", JobStatus), name="status"),
        CheckConstraint(
            f"({in_('status', sorted(FINAL))}) = (finished_at IS NOT NULL)", name="finished_at"
        ),
        CheckConstraint("(status = 'running') <= (claim_id IS NOT NULL)", name="claim_id"),
        CheckConstraint(
            "(status = 'waiting') = (wait_reason IS NOT NULL AND available_at IS NOT NULL)",
            name="waiting",
        ),
        CheckConstraint(
            f"wait_reason IS NULL OR {in_('wait_reason', WaitReason)}", name="wait_reason"
        ),
        CheckConstraint(
            "(request IS NULL) = (campaign_id IS NOT NULL) AND "
            "(campaign_id IS NULL) = (creative_id IS NULL) AND "
            "(campaign_id IS NULL) = (recipient_id IS NULL)",
            name="request",
        ),
        idempotency("jobs"),
        # The claim's index: all ascending and partial on a literal, or it is not used in order.
        # The best priority is one probe, the next tenant another, and so is a tenant's next key;
        # the jobs of a tenant's key are a range, in the order of their age.
        Index(
            "ix_jobs_turns",
            "pool",
            "priority",
            "tenant_id",
            "batch_key",
            "id",
            postgresql_where=text("status = 'queued'"),
        ),
        Index("ix_jobs_waiting", "available_at", postgresql_where=text("status = 'waiting'")),
        Index("ix_jobs_needing", "id", postgresql_where=text("wait_reason = 'need'")),
        Index("ix_jobs_claim_id", "claim_id", postgresql_where=text("status = 'running'")),
        Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
        Index("ix_jobs_campaign_id_id", "campaign_id", "id"),
        # Few among millions, and those of a tenant are looked at for each one that comes.
        Index(
            "ix_jobs_trainings",
            "tenant_id",
            "id",
            postgresql_where=text("kind IN ('finetune', 'train')"),
        ),
        {
            # A job's row changes twice and never in place: its old versions, and the entries at the
            # head of the queue, are to be cleared long before they are a fifth of the table.
            "postgresql_with": {
                "autovacuum_vacuum_scale_factor": 0.02,
                "autovacuum_vacuum_threshold": 1000,
            }
        },
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    tenant_id: Mapped[UUID]
    campaign_id: Mapped[UUID | None]
    creative_id: Mapped[UUID | None]
    recipient_id: Mapped[UUID | None]
    kind: Mapped[str]
    pool: Mapped[str]
    batch_key: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    request: Mapped[dict[str, Any] | None]
    idempotency_key: Mapped[str | None]
    status: Mapped[str]
    wait_reason: Mapped[str | None]
    available_at: Mapped[datetime | None]
    claim_id: Mapped[UUID | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    max_attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("3"))
    solo: Mapped[bool] = mapped_column(server_default=text("false"))
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    pause_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=now)
    finished_at: Mapped[datetime | None]


class JobNeed(Base):
    """That a job starts from what another one makes. ``name`` is how its request calls that one.

    The row stays for as long as the job does, whatever becomes of either. No foreign keys, as in
    `Recipient`.
    """

    __tablename__ = "job_needs"

    need_id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(primary_key=True, index=True)
    name: Mapped[str]


class Artifact(Base):
    """One stored output of a job, which claim made it, and at which attempt of the job's."""

    __tablename__ = "artifacts"
    __table_args__ = (
        UniqueConstraint("job_id", "index"),
        Index("ix_artifacts_campaign_id_id", "campaign_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    tenant_id: Mapped[UUID]
    campaign_id: Mapped[UUID | None]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    claim_id: Mapped[UUID]
    attempt: Mapped[int] = mapped_column(SmallInteger)
    index: Mapped[int] = mapped_column(SmallInteger)
    object_key: Mapped[str] = mapped_column(index=True)
    """Under the claim's prefix. Jobs that reuse what another has made refer to the same object."""
    media_type: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=now)


class JobEvent(Base):
    """What a job that runs for long has told of its course, as `jobs.events` says.

    No foreign keys, as in `Recipient`.
    """

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[UUID]
    claim_id: Mapped[UUID]
    at: Mapped[datetime]
    name: Mapped[str]
    data: Mapped[dict[str, Any]]


class Making(Base):
    """Which job makes, or has made, what every job of the tenant with this digest asks for.

    It counts for as long as that job runs under the claim, or has succeeded. No foreign keys, as in
    `Recipient`.
    """

    __tablename__ = "makings"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(index=True)
    claim_id: Mapped[UUID]
    since: Mapped[datetime] = mapped_column(server_default=now)


class CampaignCounter(Base):
    """Jobs of a campaign by status, as sums over slots.

    Every transition adds its deltas in its own transaction, each writer to its own slot, so that
    finishing workers do not queue for one row. A single slot may be negative; the sum is not.
    """

    __tablename__ = "campaign_counters"

    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)


class Orphan(Base):
    """A claim that may have left objects without an artifact, until it was looked at often enough.

    ``noted_at`` is when that was last said, ``look_at`` when to look next.
    """

    __tablename__ = "orphans"

    claim_id: Mapped[UUID] = mapped_column(primary_key=True)
    noted_at: Mapped[datetime] = mapped_column(server_default=now)
    look_at: Mapped[datetime] = mapped_column(server_default=now, index=True)
    looks: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))


class Worker(Base):
    """A worker process that is or was up: one per device. ``seen_at`` is its heartbeat."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    pool: Mapped[str]
    device: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(server_default=now)
    seen_at: Mapped[datetime] = mapped_column(server_default=now)
    clock_skew_s: Mapped[float | None]
    """Seconds by which its machine's clock was ahead of the database's then."""
    # What follows is as `storage.workers.State` says.
    memory_used_bytes: Mapped[int | None] = mapped_column(BigInteger)
    memory_total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    models: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    batch_key: Mapped[str | None]
    outputs_per_s: Mapped[float | None]
    counters: Mapped[dict[str, int]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))


class BatchSize(Base):
    """What was measured of the calls of a batch key on a sort of device, and what limits them."""

    __tablename__ = "batch_sizes"

    device: Mapped[str] = mapped_column(primary_key=True)
    batch_key: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int | None]
    """How many jobs there was room for at most when memory ran out, at ``updated_at``."""
    updated_at: Mapped[datetime] = mapped_column(server_default=now)
    rates: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Jobs per second, by the size of the call."""
    peak_bytes: Mapped[int | None] = mapped_column(BigInteger)
    torch: Mapped[str | None]
    measured_at: Mapped[datetime | None]


class TrainingSpeed(Base):
    """How fast a part of a training was on a sort of device: `storage.training_speeds.Speed`."""

    __tablename__ = "training_speeds"

    device: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    sort: Mapped[str] = mapped_column(index=True)
    work: Mapped[float]
    says: Mapped[str]
    steps_per_s: Mapped[float]
    measured_at: Mapped[datetime] = mapped_column(server_default=now)


class Schedule(Base):
    """A campaign that is started by the clock. ``next_fire_at`` None: never again."""

    __tablename__ = "schedules"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        Index(
            "ix_schedules_next_fire_at", "next_fire_at", postgresql_where=text("paused_at IS NULL")
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    cron: Mapped[str]
    timezone: Mapped[str]
    window: Mapped[str | None]
    late: Mapped[str]
    blackout_dates: Mapped[list[str]] = mapped_column(JSONB)
    catch_up: Mapped[str]
    overlap: Mapped[str]
    campaign: Mapped[dict[str, Any]]
    paused_at: Mapped[datetime | None]
    next_fire_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=now)
    updated_at: Mapped[datetime] = mapped_column(server_default=now)


class ScheduleRun(Base):
    """One fire of a schedule: at most one per moment, however many schedulers there are.

    ``definition`` is the schedule as it was when it fired, where it has been changed since.
    """

    __tablename__ = "schedule_runs"
    __table_args__ = (
        CheckConstraint(in_("status", RunStatus), name="status"),
        CheckConstraint(in_("trigger", RunTrigger), name="trigger"),
        CheckConstraint("(status = 'due') = (next_try_at IS NOT NULL)", name="next_try_at"),
        UniqueConstraint("schedule_id", "fire_time"),
        Index("ix_schedule_runs_due", "next_try_at", postgresql_where=text("status = 'due'")),
        Index(
            "ix_schedule_runs_campaign_id",
            "campaign_id",
            postgresql_where=text("campaign_id IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    schedule_id: Mapped[UUID] = mapped_column(ForeignKey("schedules.id", ondelete="CASCADE"))
    fire_time: Mapped[datetime]
    trigger: Mapped[str]
    status: Mapped[str]
    reason: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    next_try_at: Mapped[datetime | None]
    give_up_at: Mapped[datetime | None]
    definition: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    campaign_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("campaigns.id", ondelete="SET NULL")
    )
    created_at: Mapped[datetime] = mapped_column(server_default=now)
