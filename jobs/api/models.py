"""``/v1/models``: what jobs may name.

What everybody may name is for administrators to say; a model of a tenant's own is that tenant's.
"""

from datetime import date, datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.api import access
from jobs.api.access import Admin, Asking, Opened
from jobs.api.documents import json_text
from jobs.campaigns import document
from jobs.problems import BadInputError, ConflictError, Problem, from_validation
from jobs.registry import adding, keeping
from jobs.registry.specs import ModelSpec
from storage.models import DuplicateModelError, ModelCard
from storage.tenants import Caller

router = APIRouter(prefix="/v1/models", tags=["models"])


class Model(BaseModel):
    """A model or an adapter, its files one by one.

    The ``source`` of everybody's is shown to administrators only.
    """

    model_config = ConfigDict(from_attributes=True)

    name: str
    family: str
    kind: str
    base: str | None
    revision: str
    licence: str
    commercial: bool
    attribution: str | None
    licence_until: date | None
    retired_at: datetime | None
    pool: str
    size_multiple_px: int
    max_side_px: int
    default_size: str
    default_steps: int
    default_guidance: float
    details: dict[str, Any]
    manifest_sha256: str | None
    source: str | None = None
    manifest: dict[str, Any] | None = None

    @classmethod
    def of(cls, card: ModelCard, caller: Caller) -> Self:
        """As much of it as the caller may see: a source can be a path on our machines."""
        body = cls.model_validate(card)
        if card.tenant_id is None and not caller.is_admin:
            body.source = None
        return body


class Check(BaseModel):
    """What is wrong with a model's files in the bucket; nothing, if all is well."""

    model: str
    wrong: list[str]


_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ModelSpec.model_json_schema()}},
    }
}


async def _spec(request: Request, _: Admin) -> ModelSpec:
    given = document.parse_json(await json_text(request), "body")
    if not isinstance(given, dict):
        raise BadInputError(Problem("must be an object with name, source, licence, ..."))
    try:
        return ModelSpec.model_validate(given)
    except ValidationError as error:
        raise BadInputError(*from_validation(error, ModelSpec)) from error


def _keeper(name: str, caller: Asking, services: Opened) -> Caller:
    """The caller, where the model is theirs to look after: their own, or they administrate.

    That of another tenant is not there, for administrators neither.
    """
    card = keeping.found(services, caller.tenant_id, name)
    return access.admin(caller) if card.tenant_id is None else caller


Keeper = Annotated[Caller, Depends(_keeper)]


@router.get("")
def list_models(caller: Asking, services: Opened) -> list[Model]:
    """Everybody's models and adapters and the tenant's own, without their manifests."""
    return [Model.of(card, caller) for card in keeping.listed(services, caller.tenant_id)]


@router.get("/{name:path}")
def show(name: str, caller: Asking, services: Opened) -> Model:
    """One model, with its files and their digests."""
    return Model.of(keeping.found(services, caller.tenant_id, name), caller)


@router.post("", status_code=201, openapi_extra=_BODY)
def add(spec: Annotated[ModelSpec, Depends(_spec)], caller: Admin, services: Opened) -> Model:
    """Inspect, mirror and register a model for everybody; it answers when all is in the bucket.

    If the connection is lost meanwhile, ask again: what is in the bucket is not sent twice.
    """
    try:
        return Model.of(adding.add(services, spec).card, caller)
    except DuplicateModelError as error:
        raise ConflictError(f"a model {spec.name} is registered already") from error


@router.post("/{name:path}/check")
def check(name: str, caller: Keeper, services: Opened) -> Check:
    """Read every file in the bucket again and compare it with its digest."""
    return Check(model=name, wrong=keeping.check(services, caller.tenant_id, name))


@router.post("/{name:path}/retire")
def retire(name: str, caller: Keeper, services: Opened) -> Model:
    """Let no new job name it; jobs that are queued already still run."""
    return Model.of(keeping.retire(services, caller.tenant_id, name), caller)
