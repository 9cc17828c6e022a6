"""What a worker learns from the queue at its start, before it claims anything."""

from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import Engine

from jobs.devices import Slot
from jobs.services import Services
from storage import workers
from storage.ledger.heads import heads
from tests.integration.batches import jobs, measure, submit
from tests.waiting import until
from workers.families.diffusion import Diffusion
from workers.family import Item
from workers.loop import WorkLoop
from workers.runner import Runner
from workers.stopping import Pause

SLOT = Slot("cpu-0", "cpu", "")


def test_the_heads_of_the_queue(services: Services, tenant_id: UUID, engine: Engine) -> None:
    """The first jobs of the first keys, as a claim would take them; nobody claims them."""
    small = submit(services, tenant_id, {}, {}, {})
    (large,) = submit(services, tenant_id, {"size": "128x128"})
    found = heads(engine, "default", size=2)
    assert sorted([[job.id for job in batch.jobs] for batch in found]) == sorted(
        [small[:2], [large]]
    )
    assert len(heads(engine, "default", size=2, keys=1)) == 1
    assert heads(engine, "other", size=2) == []
    assert {status for status, *_ in jobs(engine).values()} == {"queued"}


def test_the_family_is_told_what_waits(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each key's batch is shown to the family in its best size; all jobs stay in the queue."""
    shown: list[list[Item]] = []
    warm = Diffusion.warm

    def noted(family: Diffusion, model: object, items: list[Item]) -> None:
        shown.append(items)
        warm(family, model, items)  # type: ignore[arg-type]

    monkeypatch.setattr(Diffusion, "warm", noted)
    submit(services, tenant_id, {}, {}, {}, {"size": "128x128"})
    make_runner().warm()
    assert not shown, "of what size calls will be is not known"
    measure(engine, 2)
    make_runner().warm()
    assert [len(items) for items in shown] == [2, 2]
    assert {status for status, *_ in jobs(engine).values()} == {"queued"}


@pytest.mark.parametrize("crashed", [False, True])
def test_a_process_that_died_over_it_is_followed_by_one_that_does_not(
    services: Services,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    *,
    crashed: bool,
) -> None:
    """What waits is not claimed, so that nothing would ever count its attempts."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # what the compiler sets is put back
    warmed: list[bool] = []
    pause = Pause()

    monkeypatch.setattr(Runner, "warm", lambda _: warmed.append(True))
    work = pause.working()
    if crashed:
        work.__enter__()  # which does not come to its end
    settings = services.settings.model_copy(update={"compile": "on"})
    loop = WorkLoop(settings, SLOT, bool, pause)
    loop.start()
    try:
        until(lambda: workers.live(engine, within_s=60) == [SLOT.worker_name], what="its pulse")
        until(loop._up.is_set, what="it is up")  # noqa: SLF001
    finally:
        loop.stop()
    assert bool(warmed) is not crashed
    assert not pause.note_crash()
