"""``presswork dataset``."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from jobs.cli import dataset_captions
from jobs.cli.output import DataOption, JsonFlag, answer, notes, opened
from jobs.datasets import keeping, reading
from jobs.datasets.checked import Checked
from jobs.datasets.checking import checked
from jobs.datasets.definition import ContentSpec, DatasetSpec
from jobs.problems import BadInputError, Problem, from_validation
from storage.datasets import Dataset

NOTED_PICTURES = 100
"""How many are looked at between two notes."""
SHOWN_SIZES = 10

S = TypeVar("S", bound=ContentSpec)

commands = typer.Typer(no_args_is_help=True, help="What models are trained on.")


def add_to(app: typer.Typer) -> None:
    """Add ``dataset``."""
    dataset_captions.add_to(commands)
    app.add_typer(commands, name="dataset")


def _help(field: str) -> str:
    return DatasetSpec.model_fields[field].description or ""


NameArgument = Annotated[str, typer.Argument(help="As `presswork dataset list` shows it.")]
SourceOption = Annotated[
    str, typer.Option(help=f"{reading.FORMS}; files: are yours in the bucket.")
]
TriggerOption = Annotated[str | None, typer.Option(help=_help("trigger"))]
CaptionOption = Annotated[str | None, typer.Option(help=_help("caption"))]
DuplicatesFlag = Annotated[bool, typer.Option("--allow-duplicates", help=_help("allow_duplicates"))]


@commands.command()
def add(
    name: Annotated[str, typer.Argument(help=_help("name"))],
    source: SourceOption,
    licence: Annotated[str, typer.Option(help=_help("licence"))],
    consent: Annotated[str, typer.Option(help=_help("consent"))],
    attribution: Annotated[str | None, typer.Option(help=_help("attribution"))] = None,
    trigger: TriggerOption = None,
    caption: CaptionOption = None,
    allow_duplicates: DuplicatesFlag = False,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a dataset as a whole, store it, and register it under its name."""
    given = {
        "name": name,
        "licence": licence,
        "consent": consent,
        "attribution": attribution,
        "trigger": trigger,
        "caption": caption,
        "allow_duplicates": allow_duplicates,
    }
    try:
        spec = _spec(DatasetSpec, given)
        with (
            opened(data) as (services, tenant_id),
            reading.opened(services, tenant_id, source) as material,
        ):
            added = keeping.add(services, tenant_id, spec, material, _noted())
    except BadInputError as error:
        raise BadInputError(*map(_as_option, error.problems)) from error
    _warn(added.warnings, as_json=as_json)
    warnings = [warning.as_dict() for warning in added.warnings]
    body = {**asdict(added.dataset), "warnings": warnings}
    answer(body, as_json=as_json, text=_line(added.dataset))


@commands.command()
def check(
    source: SourceOption,
    trigger: TriggerOption = None,
    caption: CaptionOption = None,
    allow_duplicates: DuplicatesFlag = False,
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check what would be added, and say what is in it; nothing is kept."""
    given = {"trigger": trigger, "caption": caption, "allow_duplicates": allow_duplicates}
    try:
        spec = _spec(ContentSpec, given)
        with (
            opened(data) as (services, tenant_id),
            reading.opened(services, tenant_id, source) as material,
            checked(material, spec, _noted()) as found,
        ):
            _warn(found.warnings, as_json=as_json)
            answer(_report(found), as_json=as_json, text=_summary(found))
    except BadInputError as error:
        raise BadInputError(*map(_as_option, error.problems)) from error


@commands.command("list")
def list_(data: DataOption = None, as_json: JsonFlag = False) -> None:
    """List the datasets, also those that were removed."""
    with opened(data) as (services, tenant_id):
        found = keeping.listed(services, tenant_id)
    answer(found, as_json=as_json, text="\n".join(map(_line, found)) or "no datasets yet")


@commands.command()
def show(name: NameArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Show a dataset: its terms, its hash, and some of its captions or prompts."""
    with opened(data) as (services, tenant_id):
        dataset = keeping.show(services, tenant_id, name)
        examples = keeping.examples(services, dataset)
    lines = [f"{field}: {value}" for field, value in asdict(dataset).items() if value is not None]
    lines += ["examples:", *(f"  {text}" for text in examples)]
    answer({**asdict(dataset), "examples": examples}, as_json=as_json, text="\n".join(lines))


@commands.command()
def remove(name: NameArgument, data: DataOption = None, as_json: JsonFlag = False) -> None:
    """Let nothing more be trained on a dataset; no bytes are deleted, its name stays taken."""
    with opened(data) as (services, tenant_id):
        dataset = keeping.remove(services, tenant_id, name)
    answer(dataset, as_json=as_json, text=_line(dataset))


def _spec(kind: type[S], given: dict[str, Any]) -> S:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise BadInputError(*from_validation(error, kind)) from error


def _as_option(problem: Problem) -> Problem:
    if problem.field is None or problem.line is not None:
        return problem
    field = problem.field.replace("_", "-")
    return replace(problem, field="NAME" if field == "name" else f"--{field}")


def _noted() -> Callable[[int, int], None]:
    """Says how far a large dataset is."""

    def progress(done: int, total: int) -> None:
        if done % NOTED_PICTURES == 0 and done < total:
            notes.print(f"{done} of {total} pictures have been looked at")

    return progress


def _warn(warnings: Sequence[Problem], *, as_json: bool) -> None:
    for warning in () if as_json else warnings:
        notes.print(
            f"warning: {_as_option(warning)}", markup=False, highlight=False, soft_wrap=True
        )


def _report(found: Checked) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "count": found.count,
        "digest": found.digest,
        "sizes": found.sizes,
        "masks": found.masks,
        "warnings": [warning.as_dict() for warning in found.warnings],
    }


def _summary(found: Checked) -> str:
    lines = [f"{found.count} {_items(found.kind)}, sha256 {found.digest}"]
    shown = list(found.sizes.items())[:SHOWN_SIZES]
    lines += [f"  {count:>5} of {size}" for size, count in shown]
    if len(shown) < len(found.sizes):
        lines.append(f"  and {len(found.sizes) - len(shown)} other sizes")
    if found.masks:
        lines.append(f"  {found.masks} with a mask")
    return "\n".join(lines)


def _items(kind: str) -> str:
    return "pictures" if kind == "pictures" else "texts"


def _line(dataset: Dataset) -> str:
    text = f"{dataset.name}: {dataset.count} {_items(dataset.kind)}, {dataset.licence}, sha256 "
    removed = f", removed on {dataset.removed_at.date()}" if dataset.removed_at else ""
    return f"{text}{dataset.digest}{removed}"
