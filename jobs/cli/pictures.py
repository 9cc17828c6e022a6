"""``presswork picture``."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.output import DataOption, JsonFlag, answer, opened
from jobs.pictures import storing
from jobs.pictures.formats import MAX_BYTES
from jobs.problems import found_in

commands = typer.Typer(no_args_is_help=True, help="Your pictures, for jobs to start from.")


def add_to(app: typer.Typer) -> None:
    """Add ``picture``."""
    app.add_typer(commands, name="picture")


# With one command alone, typer would leave its name out.
@commands.callback()
def _commands() -> None:
    pass


@commands.command()
def put(
    file: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP.")],
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Upload a picture, and print its reference; the same picture has the same one."""
    with file.open("rb") as stream:
        given = stream.read(MAX_BYTES + 1)
    with opened(data) as (services, tenant_id), found_in(str(file)):
        stored = storing.store(services.objects, tenant_id, given)
    reference = storing.reference(stored)
    body = {"picture": reference, "width": stored.width, "height": stored.height}
    answer(body, as_json=as_json, text=reference)
