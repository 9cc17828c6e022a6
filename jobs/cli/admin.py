"""For whoever runs the house: ``doctor``, ``tenant`` and ``model``."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from jobs import doctor as examination
from jobs import settings
from jobs.cli.output import DataOption, JsonFlag, answer
from jobs.kinds.image import ImageRequest, resolve
from jobs.kinds.values import check_storable
from jobs.problems import BadInputError, Problem, from_validation
from jobs.services import open_services
from storage import models, tenants
from storage.models import ModelCard

tenant_commands = typer.Typer(no_args_is_help=True, help="Tenants and their API keys.")
model_commands = typer.Typer(no_args_is_help=True, help="The models that jobs may name.")


def add_to(app: typer.Typer) -> None:
    """Add ``doctor``, ``tenant`` and ``model``."""
    app.command()(doctor)
    app.add_typer(tenant_commands, name="tenant")
    app.add_typer(model_commands, name="model")


def doctor(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Look at each service, and say what to do about what is wrong."""
    findings = examination.examine(settings.load(data))
    lines = [
        f"{'ok ' if finding.ok else 'BAD'} {finding.name}: {finding.says}"
        + (f"\n    -> {finding.advice}" if not finding.ok else "")
        for finding in findings
    ]
    answer(findings, as_json=as_json, text="\n".join(lines))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@tenant_commands.command("add")
def add_tenant(
    name: Annotated[str, typer.Argument(help="The tenant; created where it does not exist.")],
    key_name: Annotated[str, typer.Option("--key-name", help="What the key is for.")] = "api",
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an API key for a tenant. It is shown once and cannot be shown again."""
    _check_names({"NAME": name, "--key-name": key_name})
    with (
        open_services(settings.load(data), "presswork command") as services,
        services.engine.begin() as connection,
    ):
        tenant_id = tenants.ensure(connection, name)
        key = tenants.new_key(connection, tenant_id, key_name)
    answer({"tenant": name, "id": tenant_id, "api_key": key}, as_json=as_json, text=key)


@model_commands.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help="What jobs will call it.")],
    source: Annotated[
        str, typer.Option(help="dir:PATH on the workers' hosts, or hub:ORG/NAME@REVISION.")
    ],
    licence: Annotated[str, typer.Option(help="Its SPDX identifier.")],
    family: Annotated[str, typer.Option(help="The code that runs it.")] = "diffusion",
    size: Annotated[str, typer.Option(help="The default size in pixels.")] = "512x512",
    steps: Annotated[int, typer.Option(min=1)] = 30,
    guidance: Annotated[float, typer.Option(min=0)] = 7.5,
    size_multiple: Annotated[
        int | None, typer.Option(min=1, help="Sides must be multiples of this many pixels.")
    ] = None,
    max_side: Annotated[int, typer.Option(min=1, help="The longest side in pixels.")] = 2048,
    pool: Annotated[str, typer.Option(help="The workers that run it: their PRESSWORK_POOL.")] = (
        "default"
    ),
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Register a text-to-image model in diffusers' layout."""
    _check_names(
        {"NAME": name, "--licence": licence, "--family": family, "--source": source, "--pool": pool}
    )
    place, revision = _source(source)
    card = ModelCard(
        name=name,
        family=family,
        kind="image",
        source=place,
        revision=revision,
        licence=licence,
        pool=pool,
        size_multiple_px=size_multiple or _size_multiple(place),
        max_side_px=max_side,
        default_size=size,
        default_steps=steps,
        default_guidance=guidance,
    )
    _check_defaults(card)
    with (
        open_services(settings.load(data), "presswork command") as services,
        services.engine.begin() as connection,
    ):
        models.add(connection, card)
    answer(card, as_json=as_json, text=f"{card.identity} from {card.source}")


def _check_names(given: dict[str, str]) -> None:
    """Refuse what cannot be stored, or would be a name that nobody can type."""
    for field, text in given.items():
        if not text.strip():
            raise BadInputError(Problem("must not be empty", field=field))
        try:
            check_storable(text)
        except ValueError as error:
            raise BadInputError(Problem(str(error), field=field)) from error


def _check_defaults(card: ModelCard) -> None:
    """Refuse a model whose defaults no job could use."""
    try:
        request = ImageRequest(
            prompt="placeholder",
            model=card.name,
            size=card.default_size,
            steps=card.default_steps,
            guidance=card.default_guidance,
        )
        resolve(request, card)
    except ValidationError as error:
        problems = from_validation(error, ImageRequest)
    except BadInputError as error:
        problems = list(error.problems)
    else:
        return
    raise BadInputError(*(replace(item, field=f"--{item.field}") for item in problems))


def _source(source: str) -> tuple[str, str]:
    """The source and its revision; a hub source must be pinned, a directory must exist."""
    scheme, _, place = source.partition(":")
    if scheme == "dir" and place:
        folder = Path(place).resolve()
        if not (folder / "model_index.json").is_file():
            problem = f"{folder} is not a diffusers directory: it has no model_index.json"
            raise BadInputError(Problem(problem, field="--source"))
        return f"dir:{folder}", ""
    name, _, revision = place.partition("@")
    if scheme == "hub" and name.count("/") == 1:
        if not revision:
            problem = "a hub source needs a revision: hub:ORG/NAME@COMMIT, so that it cannot change"
            raise BadInputError(Problem(problem, field="--source"))
        return f"hub:{name}", revision
    raise BadInputError(Problem("use dir:PATH or hub:ORG/NAME@REVISION", field="--source"))


def _size_multiple(place: str) -> int:
    """From the autoencoder's depth, where its configuration is at hand: each level halves."""
    scheme, _, folder = place.partition(":")
    config = Path(folder) / "vae" / "config.json"
    if scheme == "dir" and config.is_file():
        blocks = json.loads(config.read_text(encoding="utf-8")).get("block_out_channels", [0] * 4)
        return int(2 ** (len(blocks) - 1))
    return 8


@model_commands.command("list")
def list_models(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """List the models that jobs may name."""
    with (
        open_services(settings.load(data), "presswork command") as services,
        services.engine.begin() as connection,
    ):
        cards = models.list_models(connection)
    text = "\n".join(
        f"{card.identity}: {card.family}, {card.licence}, {card.source}" for card in cards
    )
    answer(cards, as_json=as_json, text=text)
