"""What dies under `presswork up` is started again; what becomes of the work: `tests/faults`."""

from pathlib import Path
from uuid import UUID

from tests.acceptance.stack import (
    check_nothing_lost_or_doubled,
    counts,
    presswork,
    running_jobs,
    up,
    write_campaign,
)
from tests.waiting import until

JOBS = 24
LONG_ENOUGH = 30
"""Denoising steps, so that a batch takes long enough to be hit."""


def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    """The only worker is killed in the middle of a batch; the campaign is finished nonetheless."""
    with up(tmp_path / "data", tmp_path / "up.log") as stack:
        engine = stack.settings.engine("presswork tests")
        file = write_campaign(tmp_path, JOBS, steps=LONG_ENOUGH)
        campaign_id = UUID(presswork("campaign", "submit", str(file), data=stack.data)["id"])
        until(lambda: running_jobs(engine), what="a batch under way")
        for process in stack.workers():
            process.kill()
        until(
            lambda: counts(engine, campaign_id) == {"succeeded": JOBS},
            timeout_s=120,
            what=f"all of {campaign_id} succeeded",
        )
        check_nothing_lost_or_doubled(engine, stack.settings.objects(), campaign_id, JOBS)
        engine.dispose()
