"""Jobs that are of use together alone: submitted, waited for, and cancelled if that is ended."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from uuid import UUID

from jobs import requests, submissions
from jobs.export import CorruptArtifactError
from jobs.services import Services
from jobs.submissions import JobSubmission
from storage.ledger.cancel import WrongStateError
from storage.lifecycle import FINAL
from storage.objects import sha256_hex
from storage.views import ArtifactView, JobView

LOOK_S = 0.25


def run(
    services: Services,
    tenant_id: UUID,
    asked: Iterable[JobSubmission],
    progress: Callable[[int], None] = lambda _: None,
) -> list[JobView]:
    """Submit jobs and wait until all are over; ``progress`` is told how many are.

    If anything ends it before, none is left to run.

    Raises:
        BadInputError: what one of them must not ask for.
    """
    ids: list[UUID] = []
    ended: list[JobView] = []
    try:
        for submission in asked:
            job_id = submissions.submit_job(services, tenant_id, submission)
            ids.append(job_id)  # at once: the next one may be refused
        for job_id in ids:
            while (view := requests.job(services, tenant_id, job_id)).status not in FINAL:
                time.sleep(LOOK_S)
            ended.append(view)
            progress(len(ended))
    except BaseException:  # also an interrupt from the keyboard: nobody would look at the rest
        for job_id in ids[len(ended) :]:
            with suppress(WrongStateError):
                requests.cancel_job(services, tenant_id, job_id)
        raise
    return ended


def content(services: Services, artifact: ArtifactView) -> bytes:
    """What is stored of an output.

    Raises:
        CorruptArtifactError: it does not have the recorded sha256.
    """
    data = services.objects.get(artifact.object_key)
    if sha256_hex(data) != artifact.sha256:
        raise CorruptArtifactError(
            f"{artifact.object_key} does not have the recorded sha256 {artifact.sha256}"
        )
    return data


def failure_of(job: JobView) -> str:
    """Why a job that is over has made nothing."""
    return f"{job.status.value}: {job.error['message']}" if job.error else job.status.value
