"""What the API answers."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from jobs.schedules.requests import Upcoming
from storage.lifecycle import CampaignStatus, JobStatus, RunStatus, RunTrigger
from storage.schedule_runs import RunView
from storage.schedules import ScheduleView
from storage.views import CampaignView, JobView


class Artifact(BaseModel):
    """One stored output; ``url`` leads to its bytes."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    object_key: str
    media_type: str
    sha256: str
    size_bytes: int
    facts: dict[str, Any]
    url: str = ""


class Job(BaseModel):
    """A job and what it has made; ``needs`` are the jobs whose outputs it starts from."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: str
    status: JobStatus
    campaign_id: UUID | None
    creative: str | None
    recipient: str | None
    priority: int
    attempts: int
    cancel_requested: bool
    pause_requested: bool
    wait_reason: str | None
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    artifacts: list[Artifact]
    needs: list[UUID]

    @classmethod
    def of(cls, view: JobView) -> Self:
        """With the links by which the artifacts are fetched."""
        body = cls.model_validate(view)
        for artifact in body.artifacts:
            artifact.url = f"/v1/artifacts/{artifact.id}/content"
        return body


class JobPage(BaseModel):
    """Some jobs, in the order of their ids; ``next`` is the cursor of the following page."""

    jobs: list[Job]
    next: UUID | None

    @classmethod
    def of(cls, views: list[JobView], limit: int) -> Self:
        """A page that is not full is the last one."""
        return cls(
            jobs=[Job.of(view) for view in views],
            next=views[-1].id if len(views) == limit else None,
        )


class Campaign(BaseModel):
    """A campaign and how far it is: artifacts per second lately, and seconds left at that rate.

    From ``closes_at`` on no job of it starts, up to ``reopens_at``; without that, what has not
    started expires.
    """

    model_config = ConfigDict(from_attributes=True)

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

    @classmethod
    def of(cls, view: CampaignView) -> Self:
        """As the ledger sees it now."""
        return cls.model_validate(view)


class CampaignPage(BaseModel):
    """Some campaigns, newest first; ``next`` is the cursor of the following page."""

    campaigns: list[Campaign]
    next: UUID | None


class Schedule(BaseModel):
    """A schedule; ``next_fire_at`` is null if it does not fire any more."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    cron: str
    timezone: str
    window: str | None
    late: str
    blackout_dates: list[str]
    catch_up: str
    overlap: str
    campaign: dict[str, Any]
    paused_at: datetime | None
    next_fire_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, view: ScheduleView) -> Self:
        """As it is now."""
        return cls.model_validate(view)


class ScheduleList(BaseModel):
    """All schedules of the tenant, by name."""

    schedules: list[Schedule]


class Run(BaseModel):
    """One fire of a schedule; ``reason`` says why it was skipped, has failed or still waits."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    schedule_id: UUID
    fire_time: datetime
    trigger: RunTrigger
    status: RunStatus
    reason: dict[str, Any] | None
    next_try_at: datetime | None
    campaign_id: UUID | None
    created_at: datetime

    @classmethod
    def of(cls, view: RunView) -> Self:
        """As it is now."""
        return cls.model_validate(view)


class RunPage(BaseModel):
    """Some runs, the newest fire first; ``next`` is the cursor of the following page."""

    runs: list[Run]
    next: datetime | None


class Fire(BaseModel):
    """A fire to come, and the run window that its jobs have; ``skipped`` on a blackout date."""

    model_config = ConfigDict(from_attributes=True)

    fire_time: datetime
    local_time: datetime
    skipped: bool
    opens_at: datetime | None
    closes_at: datetime | None

    @classmethod
    def of(cls, upcoming: Upcoming) -> Self:
        """As the definition has it now."""
        return cls.model_validate(upcoming)


class FireList(BaseModel):
    """What is next; empty while the schedule is paused."""

    fires: list[Fire]


class UploadLink(BaseModel):
    """Where a file can be PUT until ``expires_s`` seconds from now."""

    key: str
    url: str
    expires_s: int


class Picture(BaseModel):
    """A picture of yours: ``picture`` is what requests call it. Width and height are in pixels."""

    picture: str
    width: int
    height: int


class Kind(BaseModel):
    """A kind of job: ``example`` works as the body of ``POST /v1/jobs`` as it stands.

    ``makes`` is picture, sound, video or text; adapter or model for trainings, which have no
    default model, and whose examples name a dataset and a model that may be called otherwise.
    ``inputs`` are the fields that name a file, and what it must be; ``templates`` those that a
    campaign may write as Liquid templates.
    """

    name: str
    summary: str
    makes: str
    inputs: dict[str, str]
    templates: list[str]
    default_model: str | None
    models: list[str]
    schema_: dict[str, Any]
    example: dict[str, Any]

    model_config = ConfigDict(alias_generator=lambda name: name.rstrip("_"), populate_by_name=True)
