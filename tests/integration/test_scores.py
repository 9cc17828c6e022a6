"""What a discriminator says of a picture, as it is kept."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import text

from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job
from tests.integration.batches import jobs
from workers.runner import Runner


def test_scores_are_kept_with_the_artifacts(
    services: Services, tenant_id: UUID, make_runner: Callable[..., Runner]
) -> None:
    """Every picture has its score; a job whose pictures score too low fails without another try."""
    requests: list[dict[str, object]] = [{"num_images": 2, "seed": 5}, {"min_score": 1}]
    good, bad = (
        submit_job(services, tenant_id, JobSubmission(kind="gan", request=request))
        for request in requests
    )
    assert make_runner().run_next()
    assert jobs(services.engine) == {
        good: ("succeeded", 1, None),
        bad: ("failed", 1, "score_too_low"),
    }
    with services.engine.begin() as connection:
        rows = connection.execute(text("SELECT job_id, facts FROM artifacts")).all()
    assert [row.job_id for row in rows] == [good, good]
    assert all(0 < row.facts["score"] < 1 for row in rows)
    assert {row.facts["seed"] for row in rows} == {5, 6}
