"""Releases side by side: new code waits for its schema, old code goes on with a newer one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from jobs.devices import Slot
from jobs.maintenance import sweeper
from jobs.services import Services, wait_until_migrated
from jobs.settings import Settings
from jobs.standalone import ports
from storage import database, workers
from storage.ledger import submit as ledger
from tests.integration.batches import jobs, submit
from tests.integration.doors import new_key, served
from tests.integration.ledger_cases import execute, new_job, value
from tests.waiting import until
from workers.loop import WorkLoop
from workers.stopping import Pause

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SLOT = Slot("cpu-0", "cpu", "")
LIMIT_S = 30.0
FUTURE = "9999"
"""The revision of a release that is yet to come."""


def oldest() -> str:
    """The first revision of all."""
    revision = ScriptDirectory(str(database.MIGRATIONS)).get_base()
    assert revision
    return revision


def set_revision(engine: Engine, revision: str) -> None:
    """Have the schema say that it is at ``revision``."""
    execute(engine, "UPDATE alembic_version SET version_num = :revision", revision=revision)


@pytest.fixture
def revise(engine: Engine) -> Iterator[Callable[[str], None]]:
    """Set the schema's revision; put right at the end."""
    yield lambda revision: set_revision(engine, revision)
    set_revision(engine, database.newest_revision())


def behind_text() -> str:
    """What whoever waits says."""
    return (
        f"the schema is at {oldest()} and this release needs {database.newest_revision()}: "
        "run `presswork migrate`"
    )


def test_behind(engine: Engine, revise: Callable[[str], None]) -> None:
    """An older schema is named, the right one and any newer one are fine."""
    assert database.behind(engine) is None
    revise(oldest())
    assert database.behind(engine) == behind_text()
    revise(FUTURE)
    assert database.behind(engine) is None


def test_an_old_release_does_not_migrate(engine: Engine, revise: Callable[[str], None]) -> None:
    """`presswork up` and `presswork migrate` of an older release leave a newer schema alone."""
    revise(FUTURE)
    database.migrate(engine)
    assert database.revision(engine) == FUTURE


@contextmanager
def running(settings: Settings) -> Iterator[WorkLoop]:
    """A worker's loop, in this process."""
    loop = WorkLoop(settings, SLOT, bool, Pause())
    loop.start()
    try:
        yield loop
    finally:
        loop.stop()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged to warn."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_new_worker_waits(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    revise: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says so once, is not counted as up and touches no job; once migrated it works."""
    revise(oldest())
    (job_id,) = submit(services, tenant_id, {})
    with running(services.settings) as loop:
        until(lambda: warnings(caplog), what="a warning")
        loop.drain()
        assert workers.live(engine, within_s=60) == []
        assert jobs(engine) == {job_id: ("queued", 0, None)}
        assert warnings(caplog) == [f"waiting: {behind_text()}"]
        revise(database.newest_revision())
        until(lambda: jobs(engine)[job_id][0] == "succeeded", what="the job done")
        until(lambda: workers.live(engine, within_s=60) == [SLOT.worker_name], what="its pulse")


def test_an_old_worker_goes_on(
    services: Services, tenant_id: UUID, engine: Engine, revise: Callable[[str], None]
) -> None:
    """A schema of a later release stops nobody."""
    revise(FUTURE)
    (job_id,) = submit(services, tenant_id, {})
    with running(services.settings):
        until(lambda: jobs(engine)[job_id][0] == "succeeded", what="the job done")


def test_a_worker_that_waits_can_be_stopped(
    services: Services, revise: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """It ends at once, and has nothing to sign off."""
    revise(oldest())
    with running(services.settings):
        until(lambda: warnings(caplog), what="a warning")
    assert len(warnings(caplog)) == 1


def test_a_database_that_is_away_is_waited_for(
    settings: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not taken for an old one."""
    (nowhere,) = ports.choose(["postgres"], {}).values()
    url = f"postgresql://u:hidden@127.0.0.1:{nowhere}/x"
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 3

    away = settings.model_copy(update={"database_url": url}).engine("presswork tests")
    assert not wait_until_migrated(away, pause)
    away.dispose()
    [said] = warnings(caplog)
    assert "does not answer" in said
    assert "migrate" not in said
    assert "hidden" not in said
    assert wait_until_migrated(engine, pause)


def test_a_new_sweeper_waits(
    settings: Settings,
    tenant_id: UUID,
    engine: Engine,
    revise: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It leaves everything as it is until the schema is migrated, and then does its work."""
    revise(oldest())
    ledger.submit_job(engine, new_job(tenant_id))
    execute(
        engine,
        "UPDATE jobs SET status = 'waiting', wait_reason = 'backoff', available_at = now()",
    )
    stop = threading.Event()
    thread = threading.Thread(target=sweeper.run, args=(settings, stop))
    thread.start()
    try:
        until(lambda: warnings(caplog), what="a warning")
        assert warnings(caplog) == [f"waiting: {behind_text()}"]
        assert value(engine, "SELECT status FROM jobs") == "waiting"
        revise(database.newest_revision())
        until(lambda: value(engine, "SELECT status FROM jobs") == "queued", what="promotion")
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_a_sweeper_that_waits_can_be_stopped(
    settings: Settings, revise: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """It ends although nobody migrates."""
    revise(oldest())
    stop = threading.Event()
    thread = threading.Thread(target=sweeper.run, args=(settings, stop))
    thread.start()
    until(lambda: warnings(caplog), what="a warning")
    stop.set()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_a_new_api_says_so(
    settings: Settings, engine: Engine, tenant_id: UUID, revise: Callable[[str], None]
) -> None:
    """It answers 503 with what to do, to anybody, until the schema is migrated."""
    key = new_key(engine)
    revise(oldest())
    with served(settings, key) as client:
        answer = client.get("/v1/jobs")
        assert (answer.status_code, answer.json()["detail"]) == (503, behind_text())
        assert answer.headers["Retry-After"]
        assert client.get("/healthz").status_code == 200
        revise(database.newest_revision())
        assert client.get("/v1/jobs").status_code == 200
