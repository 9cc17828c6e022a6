"""``model``: what jobs may name, and how it comes and goes."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from jobs import settings
from jobs.cli.output import DataOption, JsonFlag, answer, notes, opened
from jobs.problems import BadInputError, Problem, from_validation
from jobs.registry import adding, keeping
from jobs.registry.specs import ModelSpec
from jobs.services import open_services
from storage.models import ADAPTER, ModelCard

NOTED_BYTES = 256 * 1024 * 1024
"""How much is mirrored between two notes."""

commands = typer.Typer(no_args_is_help=True, help="The models that jobs may name.")

NameArgument = Annotated[str, typer.Argument(help="As `presswork model list` shows it.")]


def add_to(app: typer.Typer) -> None:
    """Add ``model``."""
    app.add_typer(commands, name="model")


def _help(field: str) -> str:
    return ModelSpec.model_fields[field].description or ""


@commands.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help=_help("name"))],
    source: Annotated[str, typer.Option(help=_help("source"))],
    licence: Annotated[str, typer.Option(help=_help("licence"))],
    commercial: Annotated[
        str | None, typer.Option(help=f"yes or no: {_help('commercial')}")
    ] = None,
    attribution: Annotated[str | None, typer.Option(help=_help("attribution"))] = None,
    licence_until: Annotated[
        str | None, typer.Option(help=f"YYYY-MM-DD: {_help('licence_until')}")
    ] = None,
    family: Annotated[str | None, typer.Option(help=_help("family"))] = None,
    kind: Annotated[str | None, typer.Option(help=_help("kind"))] = None,
    adapter_for: Annotated[str | None, typer.Option(help=_help("adapter_for"))] = None,
    size: Annotated[str | None, typer.Option(help=_help("size"))] = None,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
    guidance: Annotated[float | None, typer.Option(min=0)] = None,
    size_multiple: Annotated[int | None, typer.Option(min=1, help=_help("size_multiple"))] = None,
    max_side: Annotated[int | None, typer.Option(min=1, help=_help("max_side"))] = None,
    pool: Annotated[str | None, typer.Option(help=_help("pool"))] = None,
    details: Annotated[
        list[str] | None,
        typer.Option(help=f"A JSON object, or KEY=VALUE, repeatedly: {_help('details')}"),
    ] = None,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Inspect a model's files, mirror them into the bucket, and register it for everybody."""
    given = {
        "name": name,
        "source": source,
        "licence": licence,
        "commercial": commercial,
        "attribution": attribution,
        "licence_until": licence_until,
        "family": family,
        "kind": kind,
        "adapter_for": adapter_for,
        "size": size,
        "steps": steps,
        "guidance": guidance,
        "size_multiple": size_multiple,
        "max_side": max_side,
        "pool": pool,
        "details": _details(details),
    }
    try:
        try:
            spec = ModelSpec(**{key: value for key, value in given.items() if value is not None})
        except ValidationError as error:
            raise BadInputError(*from_validation(error, ModelSpec)) from error
        with open_services(settings.load(data), "presswork command") as services:
            added = adding.add(services, spec, _noted())
    except BadInputError as error:
        raise BadInputError(*map(_as_option, error.problems)) from error
    card = added.card
    if added.left_out:
        notes.print(f"left out: {', '.join(added.left_out)}", markup=False, highlight=False)
    text = f"{card.identity} from {card.source}: {len(card.manifest or ())} files, {_size(card)}"
    answer(card, as_json=as_json, text=text)


def _details(given: list[str] | None) -> dict[str, Any] | None:
    """A value that is no JSON is text."""
    details: dict[str, Any] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        whole = _value(text)
        if isinstance(whole, dict):
            details |= whole
        elif equals:
            details[key] = _value(value)
        else:
            message = f"{text}: it is neither a JSON object nor KEY=VALUE"
            raise BadInputError(Problem(message, field="--details"))
    return details or None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _noted() -> Callable[[int, int], None]:
    """Says how far a large model is."""
    noted = 0

    def progress(done: int, total: int) -> None:
        nonlocal noted
        if done - noted >= NOTED_BYTES and done < total:
            noted = done
            notes.print(f"{done / 1e9:.1f} of {total / 1e9:.1f} GB are in the bucket")

    return progress


def _as_option(problem: Problem) -> Problem:
    if problem.field is None or problem.field.startswith("--"):
        return problem
    field = problem.field.replace("_", "-")
    return replace(problem, field="NAME" if field == "name" else f"--{field}")


@commands.command("list")
def list_models(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """List the models and adapters that jobs may name: everybody's, and the tenant's own."""
    with opened(data) as (services, tenant_id):
        cards = keeping.listed(services, tenant_id)
    answer(cards, as_json=as_json, text="\n".join(map(_line, cards)))


def _line(card: ModelCard) -> str:
    what = f"adapter for {card.base}" if card.kind == ADAPTER else card.family
    retired = f", retired on {card.retired_at.date()}" if card.retired_at else ""
    return f"{card.identity}: {what}, {card.licence}, {card.source}{retired}"


def _size(card: ModelCard) -> str:
    return f"{card.size_bytes / 1e6:.1f} MB"


@commands.command("show")
def show_model(name: NameArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Show a model: what its licence allows, and its files with their digests."""
    with opened(data) as (services, tenant_id):
        card = keeping.found(services, tenant_id, name)
    lines = [
        f"{field.name}: {value}"
        for field in fields(card)
        if field.name not in ("name", "manifest") and (value := getattr(card, field.name))
    ]
    lines += [f"commercial use: {'allowed' if card.commercial else 'not allowed'}"]
    if note := keeping.note_of(card):
        lines.append(f"licence note: {note}")
    if card.manifest:
        lines.append(f"files: {len(card.manifest)}, {_size(card)}")
        lines += [f"  {entry['sha256']}  {path}" for path, entry in sorted(card.manifest.items())]
    answer(card, as_json=as_json, text="\n".join([card.identity, *lines]))


@commands.command("check")
def check_model(name: NameArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Read a model's files in the bucket again, and compare each with its digest."""
    with opened(data) as (services, tenant_id):
        wrong = keeping.check(services, tenant_id, name)
    answer({"model": name, "wrong": wrong}, as_json=as_json, text="\n".join(wrong or ["ok"]))
    if wrong:
        raise typer.Exit(1)


@commands.command("retire")
def retire_model(name: NameArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Let no new job name a model; jobs that are queued already still run."""
    with opened(data) as (services, tenant_id):
        card = keeping.retire(services, tenant_id, name)
    answer(card, as_json=as_json, text=_line(card))
