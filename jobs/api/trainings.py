"""``/v1/trainings``: what a training would take. They are submitted and followed as jobs."""

from typing import Annotated, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from jobs import submissions
from jobs.api.access import Opened, TenantId
from jobs.api.jobs import SUBMISSION, submission_of
from jobs.submissions import JobSubmission
from jobs.trainings import estimates

router = APIRouter(prefix="/v1/trainings", tags=["trainings"])


class Estimate(BaseModel):
    """What a training would take; ``seconds`` and ``device`` are null if nothing is known yet.

    ``from_what``: `measured here` where just this was done before on such a device; `scaled from
    ...` is a guess.
    """

    model_config = ConfigDict(from_attributes=True)

    steps: int
    seconds: float | None
    from_what: str
    pictures_seen: int
    device: str | None

    @classmethod
    def of(cls, estimate: estimates.Estimate) -> Self:
        """As it is known now."""
        return cls.model_validate(estimate)


@router.post("/estimate", openapi_extra=SUBMISSION)
def estimate(
    submission: Annotated[JobSubmission, Depends(submission_of)],
    tenant_id: TenantId,
    services: Opened,
) -> Estimate:
    """What the training would take that `POST /v1/jobs` with this body would queue."""
    checked = submissions.check_training(services, tenant_id, submission, takes_name=False)
    return Estimate.of(checked.estimate)
