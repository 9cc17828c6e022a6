"""A training's journal on real services: events in SQL, and curves that TensorBoard reads."""

from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import make_url
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs import events
from jobs.events import EventName, logs_prefix
from jobs.services import Services
from jobs.standalone import Servers
from storage.ledger import recover
from tests.integration.ledger_cases import expire, take_some
from tests.integration.trainings import begun, told
from tests.tcp_proxy import TcpProxy
from workers.training import journal as journals
from workers.training.journal import Journal


def train(journal: Journal, first: int, last: int) -> None:
    """Tell of the steps from ``first`` to ``last``; the losses say which attempt they are of."""
    started = {"step": first - 1, "steps": 6, "device": "cpu", "resumed": first > 1}
    journal.note(EventName.STARTED, started)
    for step in range(first, last + 1):
        journal.note(EventName.PROGRESS, {"step": step, "steps": 6, "loss": first + step / 10})
        if step % 2 == 0:
            journal.note(EventName.EVALUATED, {"step": step, "distance": float(step)})
            journal.note(EventName.CHECKPOINT, {"step": step})


def test_two_attempts_are_one_curve(services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """What a lost attempt has drawn behind the checkpoint that the next one begins at is gone."""
    engine, objects = services.engine, services.objects
    job_id, lost = begun(engine, tenant_id)
    killed = Journal(engine, objects, lost, job_id)
    train(killed, 1, 5)
    killed.flush()
    expire(engine, lost)
    assert recover.recover_claim(engine)
    heir = take_some(engine).claim_id
    with Journal(engine, objects, heir, job_id) as journal:
        train(journal, 3, 6)
    stored = {key: objects.get(key) for key in objects.keys(logs_prefix(job_id))}
    train(killed, 6, 6)
    killed.close()
    assert {key: objects.get(key) for key in objects.keys(logs_prefix(job_id))} == stored
    assert (killed.lost, journal.lost, journal.waiting) == (True, False, 0)
    files = events.fetch_logs(services, tenant_id, job_id, tmp_path)
    assert len(files) == 2
    read = EventAccumulator(str(tmp_path)).Reload()
    assert read.Tags()["scalars"] == ["training/loss", "evaluation/distance"]
    assert [(point.step, round(point.value, 3)) for point in read.Scalars("training/loss")] == [
        (1, 1.1),
        (2, 1.2),
        (3, 3.3),
        (4, 3.4),
        (5, 3.5),
        (6, 3.6),
    ]
    assert [point.step for point in read.Scalars("evaluation/distance")] == [2, 4, 6]
    names = [event.name for event in told(engine, tenant_id, job_id)]
    assert names.count("checkpoint") == 4
    assert names[-1] == "checkpoint", "the one that lost the job adds nothing"


def test_events_are_written_once_the_database_is_back(
    services: Services, servers: Servers, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happened meanwhile is there then, in its order, at the time at which it happened."""
    monkeypatch.setattr(journals, "WRITE_EVERY_S", 0.0)
    job_id, claim_id = begun(services.engine, tenant_id)
    with TcpProxy("127.0.0.1", servers.ports["postgres"]) as proxy:
        url = make_url(services.settings.database_url).set(host="127.0.0.1", port=proxy.port)
        through = services.settings.model_copy(
            update={"database_url": url.render_as_string(hide_password=False)}
        )
        engine = through.engine("presswork tests")
        with Journal(engine, services.objects, claim_id, job_id) as journal:
            train(journal, 1, 1)
            proxy.refuse()
            proxy.cut()
            train(journal, 2, 4)
            assert journal.waiting == 8
            proxy.accept()
            journal.flush()
            assert journal.waiting == 0
        engine.dispose()
    found = told(services.engine, tenant_id, job_id)
    assert [event.data["step"] for event in found] == [0, 1, 1, 2, 2, 2, 3, 4, 4, 4]
    assert [event.at for event in found] == sorted(event.at for event in found)
