"""What the tests of the doors share: a served API, and campaigns that are done without a worker."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from PIL import Image
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from jobs import submissions
from jobs.api.app import make_app
from jobs.campaigns.file import from_mapping
from jobs.services import Services
from jobs.settings import Settings
from storage import tenants
from storage.ledger import fanout, finish
from storage.ledger.claim import Batch
from storage.ledger.finish import Failed, NewArtifact, Succeeded
from storage.objects import artifact_key, sha256_hex
from storage.tables import Base
from tests.integration.ledger_cases import take

PROBLEM = "application/problem+json"

IMAGE_JOB: Mapping[str, Any] = {"kind": "image", "request": {"prompt": "a mug", "size": "64x64"}}


def new_key(engine: Engine, tenant: str = "default", *, is_admin: bool = False) -> str:
    """A fresh API key for a tenant, which is created where it does not exist."""
    with engine.begin() as connection:
        tenant_id = tenants.ensure(connection, tenant)
        return tenants.new_key(connection, tenant_id, "tests", is_admin=is_admin)


@contextmanager
def served(settings: Settings, key: str | None = None) -> Iterator[TestClient]:
    """A client of the API, with an API key or without; it shows errors and redirects as sent."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with TestClient(
        make_app(settings), headers=headers, raise_server_exceptions=False, follow_redirects=False
    ) as client:
        yield client


def as_tenant(key: str) -> dict[str, str]:
    """The headers by which a request comes with another key than its client's."""
    return {"Authorization": f"Bearer {key}"}


def rows(engine: Engine) -> dict[str, int]:
    """How many rows each table has."""
    names = [table.name for table in Base.metadata.sorted_tables]
    counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in names)  # noqa: S608 (our own)
    with engine.begin() as connection:
        return dict(zip(names, connection.execute(text(f"SELECT {counts}")).one(), strict=True))


def campaign(
    recipients: Sequence[Mapping[str, Any]] = ({"id": "1", "product": "mug"},),
    **changes: object,
) -> dict[str, Any]:
    """A campaign with inline recipients, as the API takes it."""
    return {
        "name": "Spring",
        "recipients": {"id": "id", "rows": [dict(row) for row in recipients]},
        "creatives": [{"name": "hero", "prompt": "a {{ product }}", "size": "64x64"}],
        **changes,
    }


def schedule(**changes: object) -> dict[str, Any]:
    """A schedule with inline recipients, as the API takes it."""
    return {
        "name": "nightly",
        "cron": "30 1 * * *",
        "timezone": "Europe/Berlin",
        "campaign": campaign(),
        **changes,
    }


def fanned_out(services: Services, tenant_id: UUID, given: Mapping[str, Any]) -> UUID:
    """A submitted campaign whose jobs are queued."""
    campaign_id = submissions.submit_campaign(services, tenant_id, from_mapping(given))
    assert [done.campaign_id for done in fanout.fan_out(services.engine)] == [campaign_id]
    return campaign_id


def claimed(services: Services, size: int = 100) -> Batch:
    """Queued jobs in the hands of a worker."""
    batch = take(services.engine, size)
    assert batch, "nothing is queued"
    return batch


def picture(number: int, width: int = 8, height: int = 8) -> bytes:
    """A PNG of one colour, a different one for each ``number``."""
    buffer = io.BytesIO()
    colour = (number % 256, number // 256 % 256, 128)
    Image.new("RGB", (width, height), colour).save(buffer, "png")
    return buffer.getvalue()


def succeed(services: Services, batch: Batch) -> dict[UUID, bytes]:
    """Store a picture for each job of ``batch`` and finish them; the bytes by job."""
    made: dict[UUID, bytes] = {}
    outcomes = []
    for number, job in enumerate(batch.jobs):
        data = picture(number, width=16, height=8)
        digest = sha256_hex(data)
        key = artifact_key(batch.claim_id, job.id, 0, digest, "image/png")
        services.objects.put(key, data, "image/png")
        facts = {"width": 16, "height": 8, "seed": number, "model": "debug-diffusion@1"}
        artifact = NewArtifact(key, "image/png", digest, len(data), facts)
        outcomes.append(Succeeded(job.id, [artifact]))
        made[job.id] = data
    assert set(finish.finish(services.engine, batch.claim_id, outcomes)) == set(made)
    return made


def fail(services: Services, batch: Batch) -> None:
    """Finish the jobs of ``batch`` as failed for good."""
    outcomes = [Failed(job.id, "out_of_memory", "too big", retry=False) for job in batch.jobs]
    finish.finish(services.engine, batch.claim_id, outcomes)


def strings(document: object) -> Iterator[str]:
    """Every string in a JSON document, keys included."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from strings(value)
    elif isinstance(document, list):
        for item in document:
            yield from strings(item)
    elif isinstance(document, str):
        yield document


def as_json(document: object) -> bytes:
    """The document, half surrogate pairs and NaN included, which an HTTP client would refuse."""
    return json.dumps(document).encode()
