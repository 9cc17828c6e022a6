"""The commands that serve: ``worker``, ``api``, ``sweeper``, and ``migrate``."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from jobs import settings
from jobs.cli.output import DataOption, DevicesOption, JsonFlag, answer
from jobs.logs import set_up_logging
from jobs.maintenance import sweeper as sweeping
from jobs.processes import end_with_stack
from jobs.standalone.stack import DEFAULT_TENANT
from storage import database, tenants


def add_to(app: typer.Typer) -> None:
    """Add the four."""
    for command in (worker, api, sweeper, migrate):
        app.command()(command)


def worker(
    devices: DevicesOption = "all",
    data: DataOption = None,
) -> None:
    """Run one worker process per device until SIGTERM."""
    logs = str((data or settings.data_dir()) / "logs")
    _become("workers.main", ["--devices", devices, "--logs", logs], data)


def api(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    data: DataOption = None,
) -> None:
    """Serve the HTTP API until SIGTERM."""
    _become("jobs.web", ["--host", host, "--port", str(port)], data)


def sweeper(data: DataOption = None) -> None:
    """Run the maintenance services until SIGTERM."""
    end_with_stack()
    set_up_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sweeping.run(settings.load(data), stop)


def migrate(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Bring the database to the newest schema, with a tenant to start with."""
    engine = settings.load(data).engine("presswork migrate")
    try:
        database.migrate(engine)
        with engine.begin() as connection:
            tenants.ensure(connection, DEFAULT_TENANT)
        revision = database.revision(engine)
    finally:
        engine.dispose()
    answer({"revision": revision}, as_json=as_json, text=f"the schema is at {revision}")


def _become(module: str, arguments: list[str], data: Path | None) -> None:
    """Go on as another program of ours, which this one must not import."""
    settings.load(data)  # what is missing is said here
    if data:
        os.environ["PRESSWORK_DATA"] = str(data)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606
