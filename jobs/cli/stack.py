"""``presswork up`` and ``presswork run``: everything on this machine."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from jobs import export as exports
from jobs import requests, settings, stackfile, submissions
from jobs.campaigns import file as campaign_file
from jobs.cli.campaigns import FileArgument, OutOption, exit_for, export_summary
from jobs.cli.output import DataOption, DevicesOption, JsonFlag, answer, notes, opened
from jobs.cli.progress import summary, watch
from jobs.logs import set_up_logging
from jobs.stackfile import StackInfo
from jobs.standalone.stack import Stack
from storage.models import BUILT_IN

POLL_S = 0.5

PortOption = Annotated[int | None, typer.Option(min=1, max=65535)]


def add_to(app: typer.Typer) -> None:
    """Add ``up`` and ``run``."""
    app.command()(up)
    app.command()(run)


def up(
    data: DataOption = None,
    devices: DevicesOption = "all",
    api_port: PortOption = None,
    postgres_port: PortOption = None,
    valkey_port: PortOption = None,
    s3_port: PortOption = None,
) -> None:
    """Start the local stack and keep it running until Ctrl-C."""
    set_up_logging(logging.WARNING)
    given = {"api": api_port, "postgres": postgres_port, "valkey": valkey_port, "s3": s3_port}
    with (
        _stop_signals() as stop,
        Stack(
            data or settings.data_dir(),
            given_ports={name: port for name, port in given.items() if port is not None},
            devices=devices,
            say=notes.print,
            stopping=stop.is_set,
        ) as stack,
    ):
        notes.print(_where(stack.info))
        while not stop.wait(POLL_S):
            stack.poll()
        notes.print("stopping")


def run(
    file: FileArgument,
    out: OutOption,
    data: DataOption = None,
    devices: DevicesOption = "all",
    as_json: JsonFlag = False,
) -> None:
    """Run a campaign from its file to its outputs, on a stack of its own if none is running."""
    spec = campaign_file.load(file)
    data = data or settings.data_dir()
    with ExitStack() as cleanup:
        stop = cleanup.enter_context(_stop_signals())
        poll: Callable[[], None] = lambda: None  # noqa: E731
        if stackfile.read(data) is None and not _all_external():
            set_up_logging(logging.WARNING)
            stack = Stack(data, devices=devices, say=notes.print, stopping=stop.is_set)
            poll = cleanup.enter_context(stack).poll

        def meanwhile(_: int = 0) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            poll()

        services, tenant_id = cleanup.enter_context(opened(data))
        campaign_id = submissions.submit_campaign_file(services, tenant_id, file, spec)
        notes.print(f"campaign {campaign_id}")
        try:
            watch(services, tenant_id, campaign_id, meanwhile=meanwhile)
        except KeyboardInterrupt:
            notes.print("stopped; `presswork up` goes on with the campaign where it is now")
            raise
        view = requests.campaign(services, tenant_id, campaign_id)
        written = exports.export_campaign(services, view, tenant_id, out, progress=meanwhile)
    text = f"{summary(view)}\n{export_summary(written)}"
    used = {spec.model_of(creative) for creative in spec.creatives}
    if untrained := sorted(name for name in used & BUILT_IN.keys() if name.startswith("debug-")):
        names = " and ".join(untrained)
        text += f"\n  ({names}: random weights, what they make is noise by design)"
    answer({"campaign": view, "export": written}, as_json=as_json, text=text)
    exit_for(view)


def _all_external() -> bool:
    return settings.external_services() >= settings.SERVICES.keys()


def _where(info: StackInfo) -> str:
    return (
        f"[bold]Presswork is up[/bold]: {info.api_url}/docs\n"
        f"  API key and URLs: {info.data / 'stack.json'}\n"
        f"  logs:             {info.data / 'logs'}\n"
        "Ctrl-C stops it."
    )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C as an event, so that what was started is stopped in order."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
