"""The files that a request starts from: they are there, and cannot change any more.

What other jobs make (``job:``, ``creative:``) is looked at where jobs wait for each other.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from uuid import UUID

from jobs import files
from jobs.campaigns.creatives import CompiledCreative, Creative
from jobs.campaigns.file import under
from jobs.campaigns.keys import has_date
from jobs.campaigns.templates import Template
from jobs.kinds import Kind, KindRequest, samples
from jobs.kinds.references import Media, is_a, parse
from jobs.pictures import storing
from jobs.pictures.errors import PictureError
from jobs.problems import BadInputError, Problem, nearest
from jobs.services import Services
from storage.objects import ObjectMissingError, picture_key


def checked(services: Services, tenant_id: UUID, kind: Kind, request: KindRequest) -> KindRequest:
    """The request with every file key in it replaced by the picture that the file holds now.

    Raises:
        BadInputError: a file is not there, or is nothing that the field takes.
    """
    fields: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, medium in kind.inputs.items():
        try:
            fields[name] = _fixed(services, tenant_id, medium, getattr(request, name), name)
        except BadInputError as error:
            problems += error.problems
    if problems:
        raise BadInputError(*problems)
    return request.model_copy(update=fields)


def checked_creative(
    services: Services, tenant_id: UUID, compiled: CompiledCreative
) -> CompiledCreative:
    """The same for a creative, where a field is equal for all recipients.

    What is a template is looked at when its job runs.

    Raises:
        BadInputError: fields are relative to the creative.
    """
    creative = compiled.creative
    fields: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, medium in creative.kind.inputs.items():
        try:
            given = creative.parameters[name]
            fields[name] = _fixed(
                services, tenant_id, medium, given, name, templates=creative.templates
            )
        except BadInputError as error:
            problems += error.problems
    if problems:
        raise BadInputError(*problems)
    if fields:
        parameters = {**creative.parameters, **fields}
        creative = Creative.from_parameters(creative.name, creative.kind.name, parameters)
    return replace(compiled, creative=creative)


def checked_creatives(
    services: Services, tenant_id: UUID, compiled: list[CompiledCreative]
) -> list[CompiledCreative]:
    """`checked_creative` for all of a campaign's; fields such as ``creatives[0].image``."""
    found, problems = [], []
    for index, one in enumerate(compiled):
        try:
            found.append(checked_creative(services, tenant_id, one))
        except BadInputError as error:
            problems += [under(problem, f"creatives[{index}]") for problem in error.problems]
    if problems:
        raise BadInputError(*problems)
    return found


def _fixed(
    services: Services,
    tenant_id: UUID,
    medium: Media,
    value: Any,
    field: str,
    *,
    templates: Mapping[str, Template] = MappingProxyType({}),
) -> Any:
    """The value of a field (None, a reference, or several) with references that last.

    Templates stay: what they name is known when a job runs.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        return type(value)(
            _fixed(services, tenant_id, medium, text, f"{field}[{index}]", templates=templates)
            for index, text in enumerate(value)
        )
    template = templates.get(field)
    if template and not template.is_literal:
        return value
    return _one(services, tenant_id, medium, value, field)


def _one(services: Services, tenant_id: UUID, medium: Media, text: str, field: str) -> str:
    reference = parse(text)
    try:
        match reference.scheme:
            case "sample":
                check_sample(reference.place, medium)
            case "picture":
                _check_picture(services, tenant_id, reference.place, medium)
            case "file":
                key = reference.place
                check_file(key, medium)
                picture = storing.store_file(services.objects, tenant_id, key)
                return storing.reference(picture)
            case _:
                pass
    except ObjectMissingError as error:
        raise BadInputError(Problem(files.missing(reference.place), field=field)) from error
    except PictureError as error:
        raise BadInputError(Problem(f"{text} {error.reason}", field=field)) from error
    except ValueError as error:
        raise BadInputError(Problem(str(error), field=field)) from error
    return text


def check_sample(name: str, medium: Media) -> None:
    """ValueError if there is no such sample, or if it is of another sort."""
    if name not in samples.SAMPLES:
        raise ValueError(f"there is no sample {name!r}; {nearest(name, list(samples.SAMPLES))}")
    check_media(f"sample:{name}", samples.SAMPLES[name], medium)


def check_media(what: str, media_type: str, medium: Media) -> None:
    """ValueError if a file of that type is not what the field takes."""
    if not is_a(media_type, medium):
        raise ValueError(f"{what} is {media_type}, and a {medium} is needed here")


def check_file(key: str, medium: Media) -> None:
    """ValueError if a file of the tenant's cannot stand in such a field."""
    if medium != "picture":
        raise ValueError(f"only pictures can be uploaded; a {medium} comes from a job (job:ID)")
    if has_date(key):
        raise ValueError("only the recipients of a schedule have a date; write the file's key out")


def _check_picture(services: Services, tenant_id: UUID, sha256: str, medium: Media) -> None:
    check_media("picture:", "image/png", medium)
    if not services.objects.exists(picture_key(tenant_id, sha256)):
        raise ValueError(
            "you have no such picture; upload it with `presswork picture put FILE` or "
            "POST /v1/pictures"
        )
