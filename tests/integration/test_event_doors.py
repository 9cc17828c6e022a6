"""Watching a training over HTTP and by the command: as a list, as a stream, in the terminal."""

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, routing
from sqlalchemy import Engine, make_url

from jobs.api import events as api
from jobs.api.app import DATABASE_CONNECTIONS, make_app
from jobs.events import EventName, logs_prefix
from jobs.services import Services
from jobs.settings import Settings
from jobs.standalone import Servers
from storage import job_events
from storage.job_events import NewEvent
from storage.ledger import finish
from storage.lifecycle import JobStatus
from storage.objects import training_prefix
from tests.integration.doors import PROBLEM, as_tenant, new_key, served
from tests.integration.ledger_cases import broken, made, statuses, submit_jobs
from tests.integration.test_cli import Run, environment, run
from tests.integration.trainings import DATA, begun, tell, told
from tests.tcp_proxy import TcpProxy
from tests.waiting import until

__all__ = ["environment", "run"]

NOWHERE = "00000000-0000-7000-8000-000000000000"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Api:
    """A real server, and the address of its trainings."""

    app: FastAPI
    server: uvicorn.Server
    port: int

    def stream_url(self, job_id: UUID | str) -> str:
        """Where a training can be watched."""
        return f"http://127.0.0.1:{self.port}/v1/jobs/{job_id}/events/stream"

    @property
    def connections_in_use(self) -> int:
        """To the database."""
        return int(self.app.state.services.engine.pool.checkedout())


@contextmanager
def listening(settings: Settings) -> Iterator[Api]:
    """The API on a port."""
    app = make_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, what="the API")
        yield Api(app, server, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "LOOK_S", 0.02)
    monkeypatch.setattr(api, "AWAY_LOOK_S", 0.02)


class Watcher:
    """A client of a stream, which reads an event at a time."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.lines = answer.iter_lines()

    def next(self) -> dict[str, str]:
        """The fields of the next event."""
        fields: dict[str, str] = {}
        for line in self.lines:
            if not line and fields:
                break
            name, _, value = line.partition(": ")
            if name:  # or it is a comment
                fields[name] = value
        return fields


@contextmanager
def watching(
    api: Api, job_id: UUID, key: str, last_event_id: str | None = None
) -> Iterator[Watcher]:
    """A client that watches a training."""
    headers = as_tenant(key)
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    with httpx.stream("GET", api.stream_url(job_id), headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Watcher(answer)


def test_a_list(services: Services, tenant_id: UUID) -> None:
    """Events come a page at a time, with links in place of keys, which lead to the bytes."""
    engine = services.engine
    job_id, claim_id = begun(engine, tenant_id)
    tell(engine, job_id, claim_id, EventName.STARTED, EventName.PROGRESS)
    key = f"{training_prefix(job_id)}samples/2-0.png"
    services.objects.put(key, b"a picture", "image/png")
    sample = {"step": 2, "caption": "a mug", "files": [key, "artifacts/of/another"]}
    assert job_events.add(engine, claim_id, job_id, [NewEvent(EventName.SAMPLE, sample)])
    with served(services.settings, new_key(engine)) as client:
        path = f"/v1/jobs/{job_id}/events"
        first = client.get(path, params={"limit": 2}).json()
        assert [event["data"] for event in first["events"]] == [
            DATA[EventName.STARTED],
            DATA[EventName.PROGRESS],
        ]
        rest = client.get(path, params={"after": first["next"], "limit": 2})
        assert "trainings/" not in rest.text
        assert rest.json()["next"] is None
        [event] = rest.json()["events"]
        link, foreign = event["data"].pop("files")
        assert event["data"] == {"step": 2, "caption": "a mug"}
        redirect = client.get(link)
        assert redirect.status_code == 307
        with urllib.request.urlopen(redirect.headers["location"]) as answer:  # noqa: S310
            assert answer.read() == b"a picture"
            assert answer.headers["content-type"] == "image/png"
        others = as_tenant(new_key(engine, "other"))
        for refused, headers in (
            (foreign, {}),  # whose key is not below the training's prefix
            (link[:-1] + "2", {}),
            (link, others),
        ):
            answer = client.get(refused, headers=headers)
            assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM), refused


def test_a_stream(settings: Settings, engine: Engine, tenant_id: UUID) -> None:
    """What happens is sent as it happens; it ends with the job, and goes on where one has been."""
    job_id, claim_id = begun(engine, tenant_id)
    key = new_key(engine)
    tell(engine, job_id, claim_id, EventName.STARTED)
    with listening(settings) as server:
        with watching(server, job_id, key) as watcher:
            first = watcher.next()
            tell(engine, job_id, claim_id, EventName.PROGRESS, EventName.CHECKPOINT)
            progress, checkpoint = watcher.next(), watcher.next()
            finish.finish(engine, claim_id, [made(job_id)])
            end = watcher.next()
            assert watcher.next() == {}, "the answer is over"
        with watching(server, job_id, key, last_event_id=progress["id"]) as watcher:
            assert [watcher.next(), watcher.next()] == [checkpoint, end]
    assert [event["event"] for event in (first, progress, checkpoint, end)] == [
        "started",
        "progress",
        "checkpoint",
        "end",
    ]
    assert json.loads(end["data"]) == {"status": "succeeded"}
    [_, second, _] = told(engine, tenant_id, job_id)
    assert json.loads(progress["data"]) == {
        "id": second.id,
        "at": second.at.isoformat().replace("+00:00", "Z"),
        "name": "progress",
        "data": DATA[EventName.PROGRESS],
    }


def test_many_watchers_that_are_gone(
    settings: Settings, engine: Engine, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than there are threads and connections watch at once; killed, they leave nothing."""
    monkeypatch.setattr(routing, "_PING_INTERVAL", 0.05)
    monkeypatch.setattr(api, "LOOK_S", 0.5)
    [job_id] = submit_jobs(engine, tenant_id, 1)
    key = new_key(engine)
    with listening(settings) as server, ExitStack() as open_sockets:
        watchers = []
        for _ in range(2 * DATABASE_CONNECTIONS + 10):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            open_sockets.callback(client.close)
            request = f"GET /v1/jobs/{job_id}/events/stream HTTP/1.1\r\nHost: x\r\n"
            client.sendall(f"{request}Authorization: Bearer {key}\r\n\r\n".encode())
            watchers.append(client)
        for client in watchers:
            received = b""
            while b": ping\n" not in received:  # the comment that keeps an idle line alive
                received += client.recv(4096)
        assert len(server.server.server_state.tasks) == len(watchers)
        until(lambda: server.connections_in_use == 0, what="a moment between two looks")
        for client in watchers:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
        until(lambda: not server.server.server_state.tasks, what="no request is being answered")
        assert server.connections_in_use == 0


def test_a_stream_outlives_an_outage(
    settings: Settings, servers: Servers, engine: Engine, tenant_id: UUID
) -> None:
    """While the database is away a watcher waits, and then misses nothing."""
    job_id, claim_id = begun(engine, tenant_id)
    tell(engine, job_id, claim_id, EventName.STARTED)
    with TcpProxy("127.0.0.1", servers.ports["postgres"]) as proxy:
        url = make_url(settings.database_url).set(host="127.0.0.1", port=proxy.port)
        through = settings.model_copy(
            update={"database_url": url.render_as_string(hide_password=False)}
        )
        with (
            listening(through) as server,
            watching(server, job_id, new_key(engine)) as watcher,
        ):
            assert watcher.next()["event"] == "started"
            proxy.refuse()
            proxy.cut()
            tell(engine, job_id, claim_id, EventName.CHECKPOINT)
            finish.finish(engine, claim_id, [made(job_id)])
            proxy.accept()
            assert [watcher.next()["event"], watcher.next()["event"]] == ["checkpoint", "end"]


def test_watching_in_the_terminal(
    run: Run, services: Services, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line per event, or JSON, or a bar on a terminal; the exit code says how the job ended."""
    engine = services.engine
    job_id, claim_id = begun(engine, tenant_id)
    tell(engine, job_id, claim_id, *DATA)
    finish.finish(engine, claim_id, [made(job_id)])
    plain = run("train", "watch", job_id)
    assert plain.code == 0
    times = [event.at.isoformat(timespec="seconds") for event in told(engine, tenant_id, job_id)]
    expected = [
        "starts at step 0 of 4 on cpu",
        "step 2 of 4: loss 0.5, learning_rate 0.001, 2 steps/s, 1:01:01 left",
        "checkpoint at step 2",
        "evaluated at step 2: distance 7.25",
        "gives way at step 2: others wait",
        "ends at step 3: no improvement",
    ]
    assert plain.out.splitlines()[: len(expected)] == [
        f"{time} {words}" for time, words in zip(times, expected, strict=True)
    ]
    assert f"{job_id}: image, succeeded, attempt 1" in plain.out
    lines = [json.loads(line) for line in run("train", "watch", job_id, "--json").out.splitlines()]
    assert [(line["name"], line["data"]) for line in lines] == [
        *DATA.items(),
        ("end", {"status": "succeeded"}),
    ]
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = run("train", "watch", job_id).out
    assert "checkpoint at step 2" in shown
    assert "loss 0.5, learning_rate 0.001" in shown


def test_a_training_that_fails(run: Run, engine: Engine, tenant_id: UUID) -> None:
    """The exit code of watching it is 1, and of watching what is not there 2."""
    job_id, claim_id = begun(engine, tenant_id)
    finish.finish(engine, claim_id, [broken(job_id, retry=False)])
    said = run("train", "watch", job_id)
    assert (said.code, "broken: it broke" in said.out) == (1, True)
    assert run("train", "watch", NOWHERE).code == 2


def test_ctrl_c_ends_the_watching_alone(
    environment: dict[str, str], engine: Engine, tenant_id: UUID
) -> None:
    """The command says so and ends at once, and the job goes on."""
    job_id, claim_id = begun(engine, tenant_id)
    tell(engine, job_id, claim_id, EventName.STARTED)
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "train", "watch", str(job_id)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert "starts at step 0" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "the training goes on\n")
    assert statuses(engine, job_id) == [JobStatus.RUNNING]


def test_fetching_logs(run: Run, services: Services, tenant_id: UUID, tmp_path: Path) -> None:
    """All logs of the training are written, as they are now; without any the command fails."""
    job_id, _ = begun(services.engine, tenant_id)
    out = tmp_path / "logs"
    assert run("train", "logs", job_id, "--out", out).code == 1
    for body in (b"shorter", b"longer than that"):
        services.objects.put(f"{logs_prefix(job_id)}events.1", body, "application/octet-stream")
        answer: Any = run("train", "logs", job_id, "--out", out, "--json").document
        assert answer == {"files": [str(out / "events.1")]}
        assert [path.read_bytes() for path in out.iterdir()] == [body]
