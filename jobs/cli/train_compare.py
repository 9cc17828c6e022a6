"""``presswork train compare`` and ``train sweep``: what adapters do, as one picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from jobs.campaigns.recipients import decode
from jobs.cli.output import DataOption, JsonFlag, answer, notes, opened
from jobs.problems import BadInputError, Problem
from jobs.registry.choice import USE_SAYS, Use
from jobs.trainings import comparing
from jobs.trainings.comparing import Comparison
from storage.lifecycle import JobStatus

N = TypeVar("N", int, float)

PromptOption = Annotated[list[str], typer.Option("--prompt", help="Can be given several times.")]
PromptsOption = Annotated[
    Path | None, typer.Option("--prompts", dir_okay=False, help="A file with a prompt a line.")
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Such as 1,2: a row of each per prompt.")]
OutOption = Annotated[
    Path, typer.Option("--out", dir_okay=False, help="The PNG to write, over what is there.")
]
SizeOption = Annotated[str | None, typer.Option("--size", help="Left out: the model's.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Left out: the model's.")]
UseOption = Annotated[Use, typer.Option("--use", help=USE_SAYS)]


def add_to(commands: typer.Typer) -> None:
    """Add ``compare`` and ``sweep`` to ``train``."""
    commands.command()(compare)
    commands.command()(sweep)


def compare(
    adapters: Annotated[list[str], typer.Argument(help="Adapters of one model.")],
    prompt: PromptOption = [],  # noqa: B006 (typer copies it)
    prompts: PromptsOption = None,
    seeds: SeedsOption = "1",
    out: OutOption = Path("compare.png"),
    size: SizeOption = None,
    steps: StepsOption = None,
    use: UseOption = "commercial",
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make pictures of the same prompts and seeds with each adapter, and without, side by side."""
    names = list(dict.fromkeys(adapters))
    _make(
        names,
        comparing.of_adapters(names),
        prompts=_prompts(prompt, prompts),
        seeds=seeds,
        more={"size": size, "steps": steps},
        use=use,
        out=out,
        data=data,
        as_json=as_json,
    )


def sweep(
    adapter: Annotated[str, typer.Argument(help="An adapter.")],
    strengths: Annotated[
        str, typer.Option("--strengths", help="From -4 to 4.")
    ] = "0.25,0.5,0.75,1,1.25,1.5",
    prompt: PromptOption = [],  # noqa: B006 (as above)
    prompts: PromptsOption = None,
    seeds: SeedsOption = "1",
    out: OutOption = Path("sweep.png"),
    size: SizeOption = None,
    steps: StepsOption = None,
    use: UseOption = "commercial",
    data: DataOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make pictures of the same prompts and seeds with more and more of an adapter."""
    _make(
        [adapter],
        comparing.of_strengths(adapter, _numbers(strengths, float, "--strengths")),
        prompts=_prompts(prompt, prompts),
        seeds=seeds,
        more={"size": size, "steps": steps},
        use=use,
        out=out,
        data=data,
        as_json=as_json,
    )


def _make(
    adapters: Sequence[str],
    columns: dict[str, list[dict[str, Any]]],
    *,
    prompts: Sequence[str],
    seeds: str,
    more: Mapping[str, Any],
    use: Use,
    out: Path,
    data: Path | None,
    as_json: bool,
) -> None:
    with opened(data) as (services, tenant_id):
        comparison = Comparison(
            model=comparing.model_of(services, tenant_id, adapters),
            columns=columns,
            prompts=prompts,
            seeds=_numbers(seeds, int, "--seeds"),
            more={key: value for key, value in more.items() if value is not None},
            use=use,
        )
        with Progress(
            TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), console=notes
        ) as bar:
            task = bar.add_task("", total=comparison.count)
            jobs = comparing.run(
                services, tenant_id, comparison, lambda done: bar.update(task, completed=done)
            )
        comparing.sheet(services, comparison, jobs).save(out, "PNG")
    failed = sum(job.status is not JobStatus.SUCCEEDED for job in jobs)
    said = {"sheet": out, "columns": list(columns), "jobs": [job.id for job in jobs]}
    text = f"{out}: {len(jobs)} pictures" + (f", {failed} of them not made" if failed else "")
    answer({**said, "failed": failed}, as_json=as_json, text=text)
    if failed:
        raise typer.Exit(1)


def _prompts(given: Sequence[str], file: Path | None) -> list[str]:
    read = decode(file.read_bytes(), str(file)).splitlines() if file else []
    found = [line.strip() for line in (*given, *read) if line.strip()]
    if not found:
        raise BadInputError(Problem("give at least one, or --prompts FILE", field="--prompt"))
    return list(dict.fromkeys(found))


def _numbers(text: str, kind: Callable[[str], N], option: str) -> list[N]:
    try:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError as error:
        message = f"{text!r} are not numbers with commas between them"
        raise BadInputError(Problem(message, field=option)) from error
