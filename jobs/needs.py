"""The jobs that a single job's request names, and starts from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import Connection

from jobs.kinds import KINDS, Kind, KindRequest
from jobs.problems import BadInputError, Problem
from jobs.registry import choice
from jobs.registry.choice import Use
from storage import models, views
from storage.ledger import new_needs
from storage.ledger.new_needs import MAX_DEPTH, MAX_NEEDS, NeedError, TooDeepError
from storage.lifecycle import RETRYABLE


def named(
    connection: Connection, tenant_id: UUID, kind: Kind, request: KindRequest, use: Use
) -> dict[UUID, str]:
    """The jobs that a request needs, each with the first field that names it.

    Whether there are such jobs is said when it is stored; see `explained`.

    Raises:
        BadInputError: it names a creative, too many jobs, some that make something else, or some
            whose licence forbids the ``use``.
    """
    fields = [(field, item) for field, item in kind.references(request)]
    problems = [
        Problem("creative:NAME is for campaigns; job:ID names another job", field=field)
        for field, item in fields
        if item.scheme == "creative"
    ]
    needs = [(field, item.job_id) for field, item in fields if item.scheme == "job"]
    found: dict[UUID, str] = {}
    kinds = new_needs.kinds(connection, tenant_id, [job_id for _, job_id in needs])
    for field, job_id in needs:
        found.setdefault(job_id, field)
        makes = KINDS.get(kinds.get(job_id, ""))
        takes = kind.inputs[field.partition("[")[0]]
        if makes and makes.makes != takes:
            problems.append(
                Problem(f"takes {takes}, and job {job_id} makes {makes.makes}", field=field)
            )
    if found:
        cards = {card.name: card for card in models.list_models(connection, tenant_id)}
        for job_id, asked in views.parameters(connection, tenant_id, found).items():
            forbidden = choice.forbidden_source(cards, asked, use)
            if forbidden:
                problems.append(Problem(f"job {job_id}: {forbidden}", field=found[job_id]))
    if len(found) > MAX_NEEDS:
        problems.append(Problem(f"a job can start from at most {MAX_NEEDS} others"))
    if problems:
        raise BadInputError(*problems)
    return found


@contextmanager
def explained(needs: Mapping[UUID, str]) -> Iterator[None]:
    """What storing a job finds wrong with its needs, as problems."""
    try:
        yield
    except NeedError as error:
        if error.status is None:
            message = f"there is no job {error.need_id}"
        elif error.status in RETRYABLE:
            message = f"job {error.need_id} is {error.status}: retry it first"
        else:
            message = f"job {error.need_id} is {error.status}: submit it anew first"
        raise BadInputError(Problem(message, field=needs[error.need_id])) from error
    except TooDeepError as error:
        message = f"more than {MAX_DEPTH} unfinished jobs in a row; wait for some of them"
        raise BadInputError(Problem(message, field=next(iter(needs.values())))) from error
