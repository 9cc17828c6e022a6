"""``/v1/datasets``."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from jobs.api import forms
from jobs.api.access import Opened, TenantId
from jobs.api.documents import json_text, media_type
from jobs.campaigns import document
from jobs.datasets import keeping, reading
from jobs.datasets.definition import DatasetSpec
from jobs.problems import BadInputError, Problem, from_validation
from jobs.registry.specs import Text

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

MAX_UPLOAD_BYTES = 1024**3

S = TypeVar("S", bound=DatasetSpec)


class StoredSpec(DatasetSpec):
    """A dataset whose files are in the bucket already."""

    source: Annotated[
        Text,
        Field(
            pattern="^files:.",
            description="files:PREFIX, the prefix of your own files in the bucket; or the key of a "
            ".zip or .jsonl file.",
        ),
    ]


class Dataset(BaseModel):
    """A dataset; ``digest`` names its content, and is what models made with it are known by."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: Literal["pictures", "text"]
    licence: str
    consent: str
    attribution: str | None
    trigger: str | None
    count: int
    digest: str
    created_at: datetime
    removed_at: datetime | None


class DatasetList(BaseModel):
    """All datasets of the tenant, by name."""

    datasets: list[Dataset]


class ShownDataset(Dataset):
    """A dataset, with some of its captions or prompts."""

    examples: list[str] = []


class AddedDataset(Dataset):
    """A dataset, and what was remarkable about it: each with ``message``, ``file``, ``line``."""

    warnings: list[dict[str, Any]] = []

    @classmethod
    def of(cls, added: keeping.Added) -> Self:
        """As it is registered now."""
        body = cls.model_validate(added.dataset)
        body.warnings = [warning.as_dict() for warning in added.warnings]
        return body


_FORM = DatasetSpec.model_json_schema()
_FORM["properties"]["file"] = {
    "type": "string",
    "format": "binary",
    "description": "A .zip of pictures, or a .jsonl of texts",
}
_FORM["required"].append("file")
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": StoredSpec.model_json_schema()},
            "multipart/form-data": {"schema": _FORM},
        },
    }
}


@router.post("", status_code=201, openapi_extra=_BODY)
async def add(request: Request, tenant_id: TenantId, services: Opened) -> AddedDataset:
    """Add a dataset: a form with its file, or JSON that names your files in the bucket.

    The answer comes once all of it has been checked and stored. If the connection is lost
    meanwhile, ask again: the same dataset under the same name is the one that is there.
    """
    kind = media_type(request)
    if kind == "application/json":
        given = document.parse_json(await json_text(request), "body")
        if not isinstance(given, dict):
            raise BadInputError(Problem("must be an object with name, source, licence, ..."))
        stored = _validated(StoredSpec, given)

        def from_bucket() -> keeping.Added:
            with reading.opened(services, tenant_id, stored.source) as material:
                return keeping.add(services, tenant_id, stored, material)

        return AddedDataset.of(await run_in_threadpool(from_bucket))
    if kind != "multipart/form-data":
        raise HTTPException(415, "send application/json or multipart/form-data")
    limit = f"more than {MAX_UPLOAD_BYTES // 1024**2} MiB: put it into the bucket (POST /v1/files)"
    async with forms.opened(request, MAX_UPLOAD_BYTES, HTTPException(413, limit)) as form:
        fields = {name: value for name, value in form.items() if name != "file"}
        spec, file = _validated(DatasetSpec, fields), form.get("file")
        if not isinstance(file, UploadFile):
            raise BadInputError(Problem("is required, as a file", field="file"))

        def from_upload() -> keeping.Added:
            with reading.uploaded(file.file, file.filename or "") as material:
                return keeping.add(services, tenant_id, spec, material)

        return AddedDataset.of(await run_in_threadpool(from_upload))


def _validated(spec: type[S], given: Mapping[str, Any]) -> S:
    try:
        return spec.model_validate(given)
    except ValidationError as error:
        raise BadInputError(*from_validation(error, spec)) from error


@router.get("")
def list_datasets(tenant_id: TenantId, services: Opened) -> DatasetList:
    """The datasets of your tenant, by name, also those that were removed."""
    found = keeping.listed(services, tenant_id)
    return DatasetList(datasets=[Dataset.model_validate(one) for one in found])


@router.get("/{name}")
def show(name: str, tenant_id: TenantId, services: Opened) -> ShownDataset:
    """One dataset, with some of its captions or prompts."""
    found = keeping.show(services, tenant_id, name)
    body = ShownDataset.model_validate(found)
    body.examples = keeping.examples(services, found)
    return body


@router.delete("/{name}", status_code=204)
def remove(name: str, tenant_id: TenantId, services: Opened) -> None:
    """Let nothing more be trained on it; no bytes are deleted, and the name stays taken."""
    keeping.remove(services, tenant_id, name)
