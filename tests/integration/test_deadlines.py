"""A campaign's deadline, from its file to the jobs that expire."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from jobs import requests
from jobs.campaigns.file import from_mapping
from jobs.cli.progress import summary
from jobs.maintenance.deadlines import close_windows
from jobs.problems import BadInputError, ConflictError, Problem
from jobs.services import Services
from jobs.submissions import submit_campaign
from storage.ledger import fanout
from tests.integration.ledger_cases import execute, statuses, take_some, value


def campaign(deadline: datetime | None) -> dict[str, Any]:
    """Two pictures, due by then."""
    return {
        "name": "Spring",
        "deadline": deadline and deadline.isoformat(),
        "recipients": {"id": "id", "rows": [{"id": "1"}, {"id": "2"}]},
        "creatives": [{"name": "hero", "prompt": "a mug", "size": "64x64"}],
    }


def test_what_has_not_started_by_then_expires(services: Services, tenant_id: UUID) -> None:
    """What runs at that moment may be finished."""
    due = datetime.now(UTC) + timedelta(hours=1)
    campaign_id = submit_campaign(services, tenant_id, from_mapping(campaign(due)))
    list(fanout.fan_out(services.engine))
    assert value(services.engine, "SELECT closes_at FROM campaigns") == due
    view = requests.campaign(services, tenant_id, campaign_id)
    assert summary(view).endswith(
        f"\n  closes {due.isoformat()}: what has not started by then expires"
    )
    take_some(services.engine, 1)
    execute(services.engine, "UPDATE campaigns SET closes_at = clock_timestamp()")
    close_windows(services.engine)
    assert sorted(statuses(services.engine)) == ["expired", "running"]


def test_a_deadline_that_is_past(services: Services, tenant_id: UUID) -> None:
    """It is refused and nothing is created; a request that is only repeated is not."""
    due = datetime.now(UTC) + timedelta(seconds=0.2)
    spec = from_mapping(campaign(due))
    first = submit_campaign(services, tenant_id, spec, idempotency_key="k")
    while datetime.now(UTC) <= due:
        pass
    assert submit_campaign(services, tenant_id, spec, idempotency_key="k") == first
    with pytest.raises(BadInputError) as caught:
        submit_campaign(services, tenant_id, spec)
    [problem] = caught.value.problems
    assert problem == Problem(f"{due.isoformat()} is past; give a time to come", field="deadline")
    with pytest.raises(ConflictError):
        submit_campaign(services, tenant_id, from_mapping(campaign(None)), idempotency_key="k")
    assert value(services.engine, "SELECT count(*) FROM campaigns") == 1
