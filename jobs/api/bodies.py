"""What the API answers."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from storage.lifecycle import CampaignStatus, JobStatus
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
    """A job and what it has made."""

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
    wait_reason: str | None
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    artifacts: list[Artifact]

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
    """A campaign and how far it is: artifacts per second lately, and seconds left at that rate."""

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

    @classmethod
    def of(cls, view: CampaignView) -> Self:
        """As the ledger sees it now."""
        return cls.model_validate(view)


class CampaignPage(BaseModel):
    """Some campaigns, newest first; ``next`` is the cursor of the following page."""

    campaigns: list[Campaign]
    next: UUID | None


class Kind(BaseModel):
    """A kind of job: ``example`` works as the body of ``POST /v1/jobs`` as it stands."""

    name: str
    summary: str
    default_model: str
    models: list[str]
    schema_: dict[str, Any]
    example: dict[str, Any]

    model_config = ConfigDict(alias_generator=lambda name: name.rstrip("_"), populate_by_name=True)
