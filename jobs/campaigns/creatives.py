"""Creatives made ready to run: compiled once, rendered for each recipient."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from jobs.campaigns import needs, templates
from jobs.campaigns.file import CampaignSpec, CreativeSpec, SeedRule, draft, under
from jobs.campaigns.needs import Inputs
from jobs.campaigns.recipients import Recipient, listed
from jobs.campaigns.templates import Template
from jobs.kinds import KINDS, Kind, KindRequest
from jobs.kinds.values import derived_seed
from jobs.problems import BadInputError, Problem, from_validation
from jobs.registry.choice import adapters_of, choose
from storage.models import ModelCard

MAX_PROBLEMS = 20


@dataclass(frozen=True)
class Creative:
    """A creative that needs only a recipient.

    ``parameters`` is the kind's resolved request as JSON, with templates as source text and the
    seed rule as ``seed``: with the other fields it is all that `from_parameters` needs.
    ``templates`` has those of a list as ``pictures[0]``.
    """

    name: str
    kind: Kind
    parameters: Mapping[str, Any]
    templates: Mapping[str, Template]

    @classmethod
    def from_parameters(cls, name: str, kind: str, parameters: Mapping[str, Any]) -> "Creative":
        """Raises BadInputError for templates that do not parse, with their fields."""
        kind_ = KINDS[kind]
        parsed, problems = {}, []
        for field in sorted(kind_.templates):
            for place, source in needs.texts(parameters, field):
                if not source:
                    continue
                try:
                    parsed[place] = templates.parse(source)
                except BadInputError as error:
                    problems += [under(problem, place) for problem in error.problems]
        if problems:
            raise BadInputError(*problems)
        return cls(name, kind_, parameters, parsed)

    @property
    def seed(self) -> SeedRule:
        """How the seed of a job is chosen."""
        rule: SeedRule = self.parameters["seed"]
        return rule


@dataclass(frozen=True)
class CompiledCreative:
    """A creative, where its jobs run, with which others they share a batch, and what they need."""

    creative: Creative
    pool: str
    batch_key: str
    inputs: Inputs


def compile_campaign(spec: CampaignSpec, models: Mapping[str, ModelCard]) -> list[CompiledCreative]:
    """Every creative of ``spec``; ``models`` are those that it may name.

    Raises:
        BadInputError: what is wrong in any of them, with fields such as ``creatives[0].size``.
    """
    creatives, problems = [], []
    for index, creative in enumerate(spec.creatives):
        kind = KINDS[creative.kind]
        name = spec.model_of(creative)
        place = f"creatives[{index}]"
        try:
            uses = draft(kind, {**creative.request, "model": name}).uses
            card = choose(models, name, uses, spec.use)
        except BadInputError as error:
            inherited = spec.model and "model" not in creative.request
            problems += [
                problem if inherited and problem.field == "model" else under(problem, place)
                for problem in error.problems
            ]
            continue
        try:
            creatives.append(compile_creative(creative, kind, card, adapters_of(models, uses)))
        except BadInputError as error:
            problems += [under(problem, place) for problem in error.problems]
    problems = problems or needs.check([compiled.inputs for compiled in creatives])
    if problems:
        # Two creatives that inherit a wrong model are one mistake.
        raise BadInputError(*map(spec.place, dict.fromkeys(problems)))
    return creatives


def compile_creative(
    spec: CreativeSpec, kind: Kind, card: ModelCard, adapters: Sequence[ModelCard] = ()
) -> CompiledCreative:
    """The creative for a model, and the adapters that it uses on top.

    Raises:
        BadInputError: the model cannot do it, or a template is wrong; fields are relative.
    """
    resolved = kind.resolve(draft(kind, {**spec.request, "model": card.name}), card)
    sources = {field: spec.request[field] for field in kind.templates if field in spec.request}
    parameters = {**resolved.model_dump(mode="json"), **sources, "seed": spec.seed}
    creative = Creative.from_parameters(spec.name, kind.name, parameters)
    inputs = needs.inputs_of(spec.name, kind, parameters, creative.templates)
    return CompiledCreative(creative, card.pool, kind.batch_key(resolved, card, adapters), inputs)


def render(
    creative: Creative, row: Mapping[str, Any], recipient_key: str, job_id: UUID
) -> KindRequest:
    """The kind's request, resolved, for one recipient and one job.

    Raises:
        BadInputError: a template fails for this row, or the kind refuses what it gave; fields
            such as ``hero.prompt``.
    """
    try:
        return _request(creative, row, seed_of(creative, recipient_key, job_id))
    except BadInputError as error:
        raise BadInputError(*(under(item, creative.name) for item in error.problems)) from error


def seed_of(creative: Creative, recipient_key: str, job_id: UUID) -> int:
    """The seed of one job: the same whenever the job is tried again."""
    if creative.seed == "per-recipient":
        return derived_seed(creative.name, recipient_key)
    if creative.seed == "random":
        return derived_seed(str(job_id))
    return creative.seed


def check(
    recipients: Iterable[Recipient],
    creatives: Sequence[Creative],
    *,
    file: str | None,
    is_table: bool,
    place: Callable[[Problem], Problem] = lambda problem: problem,
) -> Iterator[Recipient]:
    """Pass recipients on once every creative has been rendered for them.

    ``file`` is the recipients' file, None for inline rows. ``is_table`` says that all rows have
    the columns of the first (CSV), so that a missing one is reported once, at the ``place``
    (`CampaignSpec.place`) of its template. After the first problem nothing more is passed on.

    Raises:
        BadInputError: the first problems, about `MAX_PROBLEMS` of them; at the end, or at once
            if the recipients themselves cannot be read on.
    """
    problems: list[Problem] = []
    rows = iter(recipients)
    while len(problems) < MAX_PROBLEMS:
        try:
            recipient = next(rows, None)
        except BadInputError as error:
            raise BadInputError(*problems, *error.problems) from error
        if recipient is None:
            break
        if is_table:
            _check_columns(recipient.row, creatives, file, place)
            is_table = False
        problems += _row_problems(recipient, creatives, file)
        if not problems:
            yield recipient
    else:
        problems.append(Problem("there may be more problems; the check stopped here", file))
    if problems:
        raise BadInputError(*problems)


def _check_columns(
    columns: Mapping[str, Any],
    creatives: Sequence[Creative],
    file: str | None,
    place: Callable[[Problem], Problem],
) -> None:
    problems = [
        place(
            Problem(
                f"column {column!r} is missing in {file or 'the recipients'}; {listed(columns)}",
                field=f"creatives[{index}].{field}",
            )
        )
        for index, creative in enumerate(creatives)
        for field, template in creative.templates.items()
        for column in sorted(template.required - columns.keys())
    ]
    if problems:
        raise BadInputError(*problems)


def _row_problems(
    recipient: Recipient, creatives: Sequence[Creative], file: str | None
) -> Iterator[Problem]:
    for index, creative in enumerate(creatives):
        try:
            _request(creative, recipient.row, seed=0)
        except BadInputError as error:
            for problem in error.problems:
                found = under(problem, f"creatives[{index}]")
                if file is None:
                    where = f"recipients.rows[{recipient.line - 1}]"
                    yield replace(found, message=f"{problem.message}, in {where}")
                else:
                    yield replace(found, file=file, line=recipient.line)


def _request(creative: Creative, row: Mapping[str, Any], seed: int) -> KindRequest:
    fields = {**creative.parameters, "seed": seed}
    problems: list[Problem] = []
    rendered: dict[str, str] = {}
    for place, template in creative.templates.items():
        try:
            rendered[place] = templates.render(template, row)
            if place.partition("[")[0] in creative.kind.inputs:
                needs.check_rendered(template, rendered[place])
        except BadInputError as error:
            problems += [under(problem, place) for problem in error.problems]
    if problems:
        raise BadInputError(*problems)
    for field in creative.kind.templates & fields.keys():
        fields[field] = _filled(field, fields[field], rendered)
    try:
        return creative.kind.Request.model_validate(fields)
    except ValidationError as error:
        raise BadInputError(
            *(
                replace(problem, message=f"after rendering: {problem.message}")
                for problem in from_validation(error, creative.kind.Request)
            )
        ) from error


def _filled(field: str, value: object, rendered: Mapping[str, str]) -> object:
    """The value of a field, or of each in a list, as it was rendered."""
    if isinstance(value, list):
        return [_filled(f"{field}[{index}]", item, rendered) for index, item in enumerate(value)]
    return rendered.get(field, value)
