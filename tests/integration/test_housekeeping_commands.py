"""``presswork purge`` and ``presswork campaign reconcile``, as people and programs use them."""

from uuid import UUID, uuid4

import pytest

from jobs.services import Services
from storage import tenants
from tests.integration.doors import campaign, claimed, fanned_out, rows, succeed
from tests.integration.ledger_cases import execute
from tests.integration.test_cli import Run, environment, run

__all__ = ["environment", "run"]

NOTHING = {"campaigns": 0, "recipients": 0, "jobs": 0, "artifacts": 0, "workers": 0}
ONE = {**NOTHING, "campaigns": 1, "recipients": 1, "jobs": 1, "artifacts": 1}


@pytest.fixture
def campaign_id(services: Services, tenant_id: UUID) -> UUID:
    """A campaign of one job, which was done 31 days ago."""
    made = fanned_out(services, tenant_id, campaign())
    succeed(services, claimed(services))
    for table, column in (("campaigns", "compiled_at"), ("jobs", "finished_at")):
        execute(
            services.engine,
            f"UPDATE {table} SET {column} = {column} - interval '31 days'",  # noqa: S608
        )
    return made


def test_purge(run: Run, services: Services, campaign_id: UUID) -> None:
    """A rehearsal counts and deletes nothing; the purge deletes what was counted."""
    assert run("purge", "--older-than", "30d", "--dry-run", "--json").document == ONE
    assert run("purge", "--older-than", "32d", "--json").document == NOTHING
    assert rows(services.engine)["campaigns"] == 1
    said = run("purge", "--older-than", "30d")
    assert (said.code, said.out) == (
        0,
        "deleted 1 campaigns, 1 recipients, 1 jobs, 1 artifacts, 0 workers\n",
    )
    assert rows(services.engine)["campaigns"] == 0
    assert run("purge", "--older-than", "720h", "--json").document == NOTHING


def test_purge_of_one_tenant(run: Run, services: Services, campaign_id: UUID) -> None:
    """Another tenant's work stays, and a tenant that does not exist is an error."""
    with services.engine.begin() as connection:
        tenants.ensure(connection, "other")
    ask = ("purge", "--older-than", "30d", "--json", "--tenant")
    assert run(*ask, "other").document == NOTHING
    said = run(*ask, "nobody")
    assert (said.code, said.out, said.err) == (2, "", "--tenant: there is no tenant 'nobody'\n")
    assert run(*ask, "default").document == ONE


@pytest.mark.parametrize(
    "age", ["30", "d", "-1d", "1.5d", "30 days", "0d", "00h", "10000d", "9999999999s", "٣d", ""]
)
def test_purge_with_an_age_that_is_none(
    run: Run, services: Services, campaign_id: UUID, age: str
) -> None:
    """Nothing is deleted on a misunderstanding."""
    said = run("purge", f"--older-than={age}")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"--older-than: {age!r} is no age: use a number with d, h, m or s, such as 30d or 12h\n"
    )
    assert rows(services.engine)["campaigns"] == 1


@pytest.mark.parametrize("age", ["9999d", "1s", "44640m"])
def test_purge_with_an_unusual_age(run: Run, campaign_id: UUID, age: str) -> None:
    """The longest and the shortest are understood as well."""
    said = run("purge", "--older-than", age, "--json").document
    assert said["campaigns"] == (0 if age == "9999d" else 1)


def test_reconcile(run: Run, services: Services, campaign_id: UUID) -> None:
    """What was wrong is said and mended; then nothing is wrong; another's campaign is not found."""
    ask = ("campaign", "reconcile")
    execute(services.engine, "UPDATE campaign_counters SET jobs = 3 WHERE status = 'succeeded'")
    said = run(*ask, campaign_id)
    assert (said.code, said.out) == (0, "succeeded was off by +2\n")
    assert run(*ask, campaign_id).out == "the counters are right\n"
    execute(services.engine, "UPDATE campaign_counters SET jobs = 0 WHERE status = 'succeeded'")
    assert run(*ask, campaign_id, "--json").document == {"drift": {"succeeded": 1}}
    assert run("campaign", "status", campaign_id, "--json").document["counts"]["succeeded"] == 1
    unknown = uuid4()
    said = run(*ask, unknown)
    assert (said.code, said.err) == (2, f"there is no campaign {unknown}\n")
