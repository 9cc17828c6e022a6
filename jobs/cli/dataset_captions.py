"""``presswork dataset caption``: captions proposed by a model, in a file to be reviewed."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.output import DataOption, JsonFlag, answer, notes, opened
from jobs.datasets import proposing, reading
from jobs.registry.choice import USE_SAYS, Use


def add_to(commands: typer.Typer) -> None:
    """Add ``caption`` to ``dataset``."""
    commands.command()(caption)


def caption(
    source: Annotated[str, typer.Option(help=f"{reading.FORMS}; files: are yours in the bucket.")],
    out: Annotated[
        Path, typer.Option("--out", dir_okay=False, help="The file to write, which is not there.")
    ] = Path(reading.METADATA),
    model: Annotated[
        str | None, typer.Option("--model", help="Left out: the one registered for captions.")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option("--trigger", help="A word to stand before each caption.")
    ] = None,
    use: Annotated[Use, typer.Option("--use", help=USE_SAYS)] = "commercial",
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Have a model propose captions for pictures that have none; read them before you use them."""

    def progress(done: int, total: int) -> None:
        if not as_json and (done == total or done % 100 == 0):
            notes.print(f"{done} of {total} captions are written")

    with out.open("x", encoding="utf-8") as file:  # nobody's own captions are written over
        try:
            with (
                opened(data) as (services, tenant_id),
                reading.opened(services, tenant_id, source) as material,
            ):
                found = proposing.propose(
                    services,
                    tenant_id,
                    material,
                    model or proposing.model_for(services, tenant_id),
                    trigger=trigger,
                    use=use,
                    progress=progress,
                )
        except BaseException:
            out.unlink()
            raise
        for path, text in found.captions.items():
            line = {"file_name": path, "text": text}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    lines = [f"{out}: {len(found.captions)} captions; read them before you add the dataset"]
    lines += [f"{path}: {why}" for path, why in found.failures.items()]
    body = {"file": out, "captions": found.captions, "failures": found.failures}
    answer(body, as_json=as_json, text="\n".join(lines))
    if found.failures:
        raise typer.Exit(1)
