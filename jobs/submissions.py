"""Taking work in: every door calls these, so that all check alike."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection

from jobs import files, inputs, needs
from jobs.campaigns import creatives, document, recipients
from jobs.campaigns.creatives import CompiledCreative
from jobs.campaigns.file import CampaignSpec
from jobs.campaigns.keys import has_date
from jobs.campaigns.recipients import Recipient
from jobs.files import RecipientsFile
from jobs.kinds import KINDS
from jobs.problems import BadInputError, ConflictError, Problem, from_validation, nearest
from jobs.registry.choice import USE_SAYS, Use, adapters_of, choose
from jobs.services import Services
from jobs.trainings import submitting
from jobs.trainings.requests import TRAININGS
from jobs.trainings.submitting import Checked
from storage import models
from storage.ledger import submit
from storage.ledger.submit import (
    DuplicateRecipientsError,
    IdempotencyConflictError,
    NewCampaign,
    NewCreative,
    NewJob,
    NewWindow,
    NoRecipientsError,
)
from storage.objects import ObjectMissingError


class JobSubmission(BaseModel):
    """A job outside of any campaign: what to make, and the kind's own request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Annotated[str, Field(description="See GET /v1/kinds.", examples=["image"])]
    request: Annotated[
        dict[str, Any], Field(description="What is to be made, by the kind's schema.")
    ]
    priority: Annotated[int, Field(ge=-100, le=100, description="Lower numbers run first.")] = 0
    use: Annotated[Use, Field(description=USE_SAYS)] = "commercial"


def parse_job(text: str, name: str) -> JobSubmission:
    """The job in ``text``, JSON from a file or a request called ``name``.

    Raises:
        BadInputError: it is not JSON, or what is wrong in it.
    """
    given = document.parse_json(text, name)
    if not isinstance(given, dict):
        raise BadInputError(Problem("must be an object with kind and request"))
    try:
        return JobSubmission.model_validate(given)
    except ValidationError as error:
        raise BadInputError(*from_validation(error, JobSubmission)) from error


def submit_job(
    services: Services,
    tenant_id: UUID,
    submission: JobSubmission,
    *,
    idempotency_key: str | None = None,
) -> UUID:
    """Check and queue one job, wake a worker, and give the job's id.

    Raises:
        BadInputError: nothing was created.
        ConflictError: the idempotency key was used for something else.
    """
    if submission.kind in TRAININGS:
        return _submit_training(services, tenant_id, submission, idempotency_key)
    if submission.kind not in KINDS:
        hint = nearest(submission.kind, [*KINDS, *TRAININGS])
        raise BadInputError(Problem(f"unknown kind {submission.kind!r}; {hint}", field="kind"))
    kind = KINDS[submission.kind]
    try:
        request = kind.Request.model_validate(submission.request)
    except ValidationError as error:
        raise BadInputError(*_within_request(from_validation(error, kind.Request))) from error
    with services.engine.begin() as connection:
        cards = {card.name: card for card in models.list_models(connection, tenant_id)}
    try:
        card = choose(cards, request.model, request.uses, submission.use)
        resolved = inputs.checked(services, tenant_id, kind, kind.resolve(request, card))
        with services.engine.begin() as connection:
            needed = needs.named(connection, tenant_id, kind, resolved, submission.use)
    except BadInputError as error:
        raise BadInputError(*_within_request(error.problems)) from error
    job = NewJob(
        tenant_id=tenant_id,
        kind=kind.name,
        pool=card.pool,
        batch_key=kind.batch_key(resolved, card, adapters_of(cards, request.uses)),
        request=resolved.model_dump(mode="json"),
        priority=submission.priority,
        idempotency_key=idempotency_key,
        needs=tuple(needed),
    )
    try:
        with needs.explained(needed):
            job_id = submit.submit_job(services.engine, job)
    except BadInputError as error:
        raise BadInputError(*_within_request(error.problems)) from error
    except IdempotencyConflictError as error:
        raise ConflictError("the Idempotency-Key was used for a different job") from error
    services.wake_ups.send(card.pool)
    return job_id


def check_training(
    services: Services,
    tenant_id: UUID,
    submission: JobSubmission,
    *,
    idempotency_key: str | None = None,
    takes_name: bool = True,
) -> Checked:
    """What a training takes, and that it may be submitted; nothing is.

    The keywords are those of `jobs.trainings.submitting.check`.

    Raises:
        BadInputError: it may not, or is no training.
    """
    if submission.kind not in TRAININGS:
        message = f"{submission.kind!r} is no training; {nearest(submission.kind, [*TRAININGS])}"
        raise BadInputError(Problem(message, field="kind"))
    try:
        return submitting.check(
            services,
            tenant_id,
            submission.kind,
            submission.request,
            submission.use,
            idempotency_key=idempotency_key,
            takes_name=takes_name,
        )
    except BadInputError as error:
        raise BadInputError(*_within_request(error.problems)) from error


def _submit_training(
    services: Services, tenant_id: UUID, submission: JobSubmission, idempotency_key: str | None
) -> UUID:
    return submitting.submit(
        services,
        tenant_id,
        check_training(services, tenant_id, submission, idempotency_key=idempotency_key),
        priority=submission.priority,
        idempotency_key=idempotency_key,
    )


def _within_request(problems: Iterable[Problem]) -> list[Problem]:
    return [
        replace(problem, field=f"request.{problem.field}" if problem.field else "request")
        for problem in problems
    ]


def submit_campaign(
    services: Services,
    tenant_id: UUID,
    spec: CampaignSpec,
    file: RecipientsFile | None = None,
    *,
    idempotency_key: str | None = None,
) -> UUID:
    """Check a campaign and all its recipients, store it, and give its id.

    ``file`` is None for recipients that are inline or in the bucket. The jobs are made by the
    sweeper.

    Raises:
        BadInputError: nothing was created.
        ConflictError: the idempotency key was used for something else.
    """
    if file is None and spec.recipients.bucket is not None:
        with _bucket_file(services, tenant_id, spec) as found:
            return submit_campaign(
                services, tenant_id, spec, found, idempotency_key=idempotency_key
            )
    with services.engine.begin() as connection:
        compiled = _compiled(connection, tenant_id, spec)
    campaign = _new_campaign(tenant_id, spec, compiled)
    if idempotency_key:
        campaign = replace(
            campaign, idempotency_key=idempotency_key, request_sha256=_digest(spec, file)
        )
    try:
        earlier = submit.find_campaign(services.engine, campaign)
        if earlier:
            return earlier
        _check_deadline(spec)
        compiled = _checked_inputs(services, tenant_id, spec, compiled)
        campaign = replace(campaign, creatives=list(map(_new_creative, compiled)))
        with _explained(spec, file):
            return submit.submit_campaign(
                services.engine, campaign, _checked_recipients(spec, file, compiled)
            )
    except IdempotencyConflictError as error:
        raise ConflictError("the Idempotency-Key was used for a different campaign") from error


def store_campaign(
    services: Services,
    connection: Connection,
    tenant_id: UUID,
    spec: CampaignSpec,
    file: RecipientsFile | None,
    *,
    window: NewWindow | None,
) -> UUID:
    """`submit_campaign` within the caller's transaction, which must not outlive an error.

    Raises:
        BadInputError: what is wrong.
    """
    compiled = _checked_inputs(services, tenant_id, spec, _compiled(connection, tenant_id, spec))
    campaign = replace(_new_campaign(tenant_id, spec, compiled), window=window)
    with _explained(spec, file):
        return submit.store_campaign(
            connection, campaign, _checked_recipients(spec, file, compiled)
        )


def check_campaign(connection: Connection, tenant_id: UUID, spec: CampaignSpec) -> None:
    """Check all of a campaign but what lies in the bucket; nothing is stored.

    Raises:
        BadInputError: what is wrong.
    """
    compiled = _compiled(connection, tenant_id, spec)
    if spec.recipients.bucket is not None:
        return
    lines: dict[str, list[int]] = {}
    for recipient in _checked_recipients(spec, None, compiled):
        lines.setdefault(recipient.key, []).append(recipient.line)
    doubles = [(key, found) for key, found in lines.items() if len(found) > 1]
    if doubles:
        doubles = doubles[: submit.DUPLICATES_SHOWN]
        raise BadInputError(*_duplicates(doubles, None, spec.recipients.id))


def _compiled(
    connection: Connection, tenant_id: UUID, spec: CampaignSpec
) -> list[CompiledCreative]:
    cards = {card.name: card for card in models.list_models(connection, tenant_id)}
    return creatives.compile_campaign(spec, cards)


def _checked_inputs(
    services: Services, tenant_id: UUID, spec: CampaignSpec, compiled: list[CompiledCreative]
) -> list[CompiledCreative]:
    try:
        return inputs.checked_creatives(services, tenant_id, compiled)
    except BadInputError as error:
        raise BadInputError(*map(spec.place, error.problems)) from error


def _new_campaign(
    tenant_id: UUID, spec: CampaignSpec, compiled: Sequence[CompiledCreative]
) -> NewCampaign:
    return NewCampaign(
        tenant_id=tenant_id,
        name=spec.name,
        creatives=[_new_creative(creative) for creative in compiled],
        window=NewWindow(spec.deadline) if spec.deadline else None,
    )


def _check_deadline(spec: CampaignSpec) -> None:
    if spec.deadline and spec.deadline <= datetime.now(UTC):
        problem = f"{spec.deadline.isoformat()} is past; give a time to come"
        raise BadInputError(spec.place(Problem(problem, field="deadline")))


@contextmanager
def _explained(spec: CampaignSpec, file: RecipientsFile | None) -> Iterator[None]:
    """What storing the recipients finds wrong with them, as problems."""
    name = file.name if file else None
    try:
        yield
    except DuplicateRecipientsError as error:
        raise BadInputError(*_duplicates(error.duplicates, name, spec.recipients.id)) from error
    except NoRecipientsError as error:
        raise BadInputError(Problem("there are no recipients", file=name)) from error


@contextmanager
def _bucket_file(
    services: Services, tenant_id: UUID, spec: CampaignSpec
) -> Iterator[RecipientsFile]:
    """The file that ``recipients.bucket`` names, of a campaign that no schedule has started."""
    key = spec.recipients.bucket
    assert key is not None
    if has_date(key):
        problem = "only a schedule's run has a date; write the file's key out"
        raise BadInputError(spec.place(Problem(problem, field="recipients.bucket")))
    try:
        with files.opened(services, tenant_id, key) as file:
            yield file
    except ObjectMissingError as error:
        raise BadInputError(
            spec.place(Problem(files.missing(key), field="recipients.bucket"))
        ) from error


def submit_campaign_file(
    services: Services,
    tenant_id: UUID,
    path: Path,
    spec: CampaignSpec,
    *,
    idempotency_key: str | None = None,
) -> UUID:
    """Submit a campaign read from ``path``, whose recipients' file is named relative to it.

    Raises:
        BadInputError: nothing was created.
    """
    if spec.recipients.file is None:
        return submit_campaign(services, tenant_id, spec, idempotency_key=idempotency_key)
    file = path.parent / spec.recipients.file
    try:
        with file.open("rb") as stream:
            return submit_campaign(
                services,
                tenant_id,
                spec,
                RecipientsFile(str(file), stream),
                idempotency_key=idempotency_key,
            )
    except OSError as error:
        if error.filename != str(file):
            raise
        problem = Problem(f"{file} cannot be read: {error.strerror}", field="recipients.file")
        raise BadInputError(spec.place(problem)) from error


def _checked_recipients(
    spec: CampaignSpec, file: RecipientsFile | None, compiled: Sequence[CompiledCreative]
) -> Iterable[Recipient]:
    given = spec.recipients
    format_ = None
    if file is None:
        if given.rows is None:
            raise BadInputError(
                Problem(
                    "give the recipients as rows, name a file in the bucket, or upload one",
                    field="recipients",
                )
            )
        rows = recipients.from_rows(given.rows, given.id)
    else:
        format_ = given.format or recipients.format_of(file.name)
        rows = recipients.read(file.stream, file.name, given.id, format_, given.delimiter)
    return creatives.check(
        rows,
        [creative.creative for creative in compiled],
        file=file.name if file else None,
        is_table=format_ == "csv",
        place=spec.place,
    )


def _new_creative(compiled: CompiledCreative) -> NewCreative:
    creative = compiled.creative
    return NewCreative(
        name=creative.name,
        kind=creative.kind.name,
        pool=compiled.pool,
        batch_key=compiled.batch_key,
        parameters=dict(creative.parameters),
        needs=compiled.inputs.needs,
    )


def _digest(spec: CampaignSpec, file: RecipientsFile | None) -> str:
    """What the idempotency key stands for: the campaign's text and its recipients'."""
    given = spec.model_dump(mode="json")
    if spec.recipients.bucket is None:
        # A request from before there was such a field is the same request today.
        del given["recipients"]["bucket"]
    if spec.use == "commercial":
        del given["use"]
    if spec.deadline is None:
        del given["deadline"]
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
    if file and file.version:
        digest.update(file.version.encode())
    elif file:
        while chunk := file.stream.read(1024 * 1024):
            digest.update(chunk)
        file.stream.seek(0)
    return digest.hexdigest()


def _duplicates(
    duplicates: Sequence[tuple[str, Sequence[int]]], file: str | None, id_column: str
) -> list[Problem]:
    return [
        Problem(
            f"recipient id {key!r} stands on {'lines' if file else 'rows'} "
            f"{', '.join(map(str, lines))}; each recipient must occur once",
            file=file,
            line=lines[1] if file else None,
            field=id_column,
        )
        for key, lines in duplicates
    ]
