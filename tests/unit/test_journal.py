"""A training's journal where nobody listens: nothing that fails there stops the training."""

import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from accelerate.tracking import GeneralTracker
from sqlalchemy import Engine

from jobs.events import EventName
from jobs.standalone import ports
from storage import database
from storage.objects import ObjectStore
from workers.training import journal as journals
from workers.training import trackers
from workers.training.journal import Journal

STARTED = {"step": 0, "steps": 9, "device": "cpu", "resumed": False}


class Notebook(GeneralTracker):  # type: ignore[misc]  # mypy does not follow accelerate
    """A tracker of accelerate's sort that writes down all that it is told."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self, name: str = "notebook", *, broken: bool = False) -> None:
        super().__init__()
        self.name = name
        self.told: list[tuple[int | None, dict[str, Any]]] = []
        self.calls: list[str] = []
        self.broken = broken

    @property
    def tracker(self) -> None:
        """Nothing that others made."""

    def start(self) -> None:
        """Begin."""
        self.calls.append("start")

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        """Write down, or fail."""
        self.calls.append("log")
        if self.broken:
            raise ConnectionError("nobody listens")
        self.told.append((step, dict(values)))

    def finish(self) -> None:
        """End."""
        self.calls.append("finish")


class Hanging(Notebook):
    """One that never comes back."""

    def __init__(self) -> None:
        super().__init__("hanging")
        self.end = threading.Event()

    def start(self) -> None:
        """Wait for something that does not come."""
        self.end.wait()


@pytest.fixture
def nowhere() -> Iterator[tuple[Engine, ObjectStore]]:
    """A database and a bucket at ports where nobody listens."""
    free = ports.choose(["postgres", "s3"], {})
    engine = database.connect(
        f"postgresql+psycopg://u:p@127.0.0.1:{free['postgres']}/x", application="presswork tests"
    )
    yield (
        engine,
        ObjectStore(
            f"http://127.0.0.1:{free['s3']}",
            "bucket",
            access_key_id="key",
            secret_access_key="secret",
            tries=1,
        ),
    )
    engine.dispose()


def written(nowhere: tuple[Engine, ObjectStore], *others: GeneralTracker) -> Journal:
    """A journal of some job."""
    return Journal(*nowhere, uuid4(), uuid4(), others)


def test_events_are_kept_within_bounds(
    nowhere: tuple[Engine, ObjectStore],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the database and the bucket are away the latest events wait, of progress not all."""
    monkeypatch.setattr(journals, "MOST_WAITING", 20)
    with caplog.at_level(logging.WARNING), written(nowhere) as journal:
        journal.note(EventName.STARTED, STARTED)
        for step in range(1, 40):
            journal.note(EventName.PROGRESS, {"step": step, "steps": 99, "loss": 1.0})
        journal.note(EventName.CHECKPOINT, {"step": 40})
        assert 10 < journal.waiting <= 20
        for step in range(41, 70):
            journal.note(EventName.EVALUATED, {"step": step})
        assert journal.waiting == 20
        assert not journal.lost
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert (said.count("events"), said.count("logs")) == (1, 2), "at the checkpoint and the end"


def test_trackers_get_numbers_only(nowhere: tuple[Engine, ObjectStore]) -> None:
    """Neither captions nor files nor the device: what was measured, with its step."""
    notebook = Notebook()
    with written(nowhere, notebook) as journal:
        journal.note(EventName.STARTED, STARTED)
        data = {"step": 2, "steps": 9, "loss": 0.5, "eta_s": 3.0, "note": "secret", "final": True}
        journal.note(EventName.PROGRESS, data)
        journal.note(EventName.SAMPLE, {"step": 2, "caption": "secret", "files": ["secret"]})
        journal.note(EventName.EVALUATED, {"step": 2, "loss": 0.75})
    assert notebook.told == [(2, {"training/loss": 0.5}), (2, {"evaluation/loss": 0.75})]
    assert notebook.calls == ["start", "log", "log", "finish"]


def test_trackers_that_fail(
    nowhere: tuple[Engine, ObjectStore],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is not installed, one that raises and one that hangs harm nobody, and are logged."""
    broken, fine, hanging = Notebook("broken", broken=True), Notebook(), Hanging()
    missing = trackers.chosen(["trackio"], uuid4())
    with written(nowhere, *missing, broken, fine) as journal:
        for step in range(3):
            journal.note(EventName.PROGRESS, {"step": step, "loss": 0.5})
    assert [step for step, _ in fine.told] == [0, 1, 2]
    monkeypatch.setattr(trackers, "FINISH_S", 0.05)
    with written(nowhere, hanging) as journal:
        journal.note(EventName.PROGRESS, {"step": 1, "loss": 0.5})
    hanging.end.set()
    said = [r.getMessage() for r in caplog.records if r.name == trackers.__name__]
    for message, beginning in zip(
        said,
        (
            "tracker trackio: could not start, install presswork[trackio]",
            "tracker broken: could not log: ConnectionError",
            "trackers: not everything could be sent",
        ),
        strict=True,
    ):
        assert message.startswith(beginning)


def test_the_known_trackers() -> None:
    """Each setting's name leads to the tracker of that name, with a run called after the job."""
    job_id = uuid4()
    made = trackers.chosen(["wandb", "trackio", "mlflow"], job_id)
    assert [tracker.name for tracker in made] == ["wandb", "trackio", "mlflow"]
    assert made[0].init_kwargs["settings"]["console"] == "off", "or it sends what is printed"
