"""``presswork file``."""

from pathlib import Path
from typing import Annotated

import typer

from jobs import files
from jobs.cli.output import DataOption, JsonFlag, answer, opened

commands = typer.Typer(no_args_is_help=True, help="Your files in the bucket, such as recipients.")


def add_to(app: typer.Typer) -> None:
    """Add ``file``."""
    app.add_typer(commands, name="file")


# With one command alone, typer would leave its name out.
@commands.callback()
def _commands() -> None:
    pass


@commands.command()
def put(
    local: Annotated[Path, typer.Argument(help="The file to store.")],
    key: Annotated[str, typer.Argument(help="What campaigns call it, such as lists/spring.csv.")],
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Store a file in the bucket, in the place of what was there."""
    with opened(data) as (services, tenant_id):
        files.put(services, tenant_id, local, key)
    answer({"key": key}, as_json=as_json, text=f"recipients: {{bucket: {key}}}")
