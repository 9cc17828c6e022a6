"""Jobs and campaigns whose requests name others, through the doors."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from jobs import requests, submissions
from jobs.campaigns.file import from_mapping
from jobs.kinds import KINDS
from jobs.kinds.image import ImageRequest
from jobs.problems import BadInputError
from jobs.services import Services
from jobs.submissions import JobSubmission
from storage import models
from storage.ledger import needs, new_needs
from storage.lifecycle import JobStatus
from storage.views import JobView
from tests import bundle_kinds
from tests.integration.ledger_cases import (
    broken,
    campaign_jobs,
    execute,
    fan_out,
    finish_all,
    ids,
    rows,
    take_some,
)
from workers.family import Input, Item
from workers.items import facts_of

JOB = uuid4()
A_PICTURE = "sample:apple.png"


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle_kinds.register(monkeypatch)


def submit(services: Services, tenant_id: UUID, kind: str, key: str = "", **request: Any) -> UUID:
    """Submit a single job."""
    submission = JobSubmission(kind=kind, request=request)
    return submissions.submit_job(services, tenant_id, submission, idempotency_key=key or None)


def refusals(services: Services, tenant_id: UUID, **request: Any) -> list[str]:
    """Why a clip is refused."""
    with pytest.raises(BadInputError) as caught:
        submit(services, tenant_id, "case-clip", **request)
    return [str(problem) for problem in caught.value.problems]


def image(services: Services, tenant_id: UUID) -> UUID:
    """A picture that is to be made."""
    return submit(services, tenant_id, "image", **KINDS["image"].example)


def seen(services: Services, tenant_id: UUID, job_id: UUID) -> JobView:
    """The job as its owner sees it."""
    return requests.job(services, tenant_id, job_id)


def test_a_job_of_jobs(services: Services, tenant_id: UUID) -> None:
    """It waits for those that its request names, shows them, and takes from each by its id."""
    first, second = image(services, tenant_id), image(services, tenant_id)
    spoken = submit(services, tenant_id, "case-sound", text="hello")
    pictures = [f"job:{first}", A_PICTURE, f"job:{second}#1", f"job:{first}#2"]
    clip = submit(services, tenant_id, "case-clip", pictures=pictures, voice=f"job:{spoken}")
    view = seen(services, tenant_id, clip)
    assert (view.status, view.wait_reason) == (JobStatus.WAITING, "need")
    assert view.needs == (first, second, spoken)
    while seen(services, tenant_id, clip).status is JobStatus.WAITING:
        batch = take_some(services.engine)
        assert clip not in ids(batch)
        finish_all(services.engine, batch)
    found = needs.artifacts(services.engine, [clip])
    assert set(found[clip]) == {str(first), str(second), str(spoken)}


def test_what_is_refused(services: Services, tenant_id: UUID) -> None:
    """Each mistake is named with its field and what to do, and nothing is created."""
    failed = image(services, tenant_id)
    batch = take_some(services.engine)
    finish_all(services.engine, batch, lambda job_id: broken(job_id, retry=False))
    picture = image(services, tenant_id)
    assert refusals(services, tenant_id, pictures=[A_PICTURE, f"job:{JOB}"]) == [
        f"request.pictures[1]: there is no job {JOB}"
    ]
    assert refusals(services, tenant_id, pictures=[f"job:{failed}"]) == [
        f"request.pictures[0]: job {failed} is failed: retry it first"
    ]
    assert refusals(services, tenant_id, pictures=["creative:hero"], voice=f"job:{picture}") == [
        "request.pictures[0]: creative:NAME is for campaigns; job:ID names another job",
        f"request.voice: takes sound, and job {picture} makes picture",
    ]
    assert len(rows(services.engine, "SELECT FROM jobs")) == 2


def test_licences_follow(services: Services, tenant_id: UUID, engine: Engine) -> None:
    """What may not be sold is no part of what is sold, and says so in what is made of it."""
    picture = image(services, tenant_id)
    finish_all(engine, take_some(engine))
    execute(
        engine,
        "UPDATE artifacts SET facts = jsonb_build_object("
        "'licence', 'CC-BY-NC-4.0 AND MIT', 'attribution', jsonb_build_array('Ada', E'Bob\\nAda'))",
    )
    with engine.begin() as connection:
        card = replace(models.BUILT_IN["debug-diffusion"], licence="MIT AND Apache-2.0")
        free = replace(card, name="default/free", tenant_id=tenant_id)
        models.add(connection, replace(free, licence="CC-BY-NC-4.0", commercial=False))
    execute(engine, "UPDATE jobs SET request = jsonb_set(request, '{model}', '\"default/free\"')")
    (refusal,) = refusals(services, tenant_id, pictures=[f"job:{picture}"])
    assert refusal == (
        f"request.pictures[0]: job {picture}: the licence of 'default/free' (CC-BY-NC-4.0) "
        "forbids commercial use of what it made: say `use: internal` if nobody earns by it"
    )
    submission = JobSubmission(
        kind="case-clip", request={"pictures": [f"job:{picture}"]}, use="internal"
    )
    clip = submissions.submit_job(services, tenant_id, submission)
    (made,) = needs.artifacts(engine, [clip])[clip][str(picture)]
    given = Input(b"", made.media_type, made.sha256, made.licence, made.attribution)
    request = ImageRequest(prompt="x", seed=1)
    facts = facts_of(Item(clip, request, {"pictures": [given]}), card)
    assert facts["licence"] == "MIT AND Apache-2.0 AND CC-BY-NC-4.0"
    assert facts["attribution"] == ["Ada", "Bob"]


def test_limits(services: Services, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job starts from so many others at most, and behind so many at most."""
    found = [image(services, tenant_id) for _ in range(3)]
    pictures = [f"job:{job_id}" for job_id in found]
    monkeypatch.setattr("jobs.needs.MAX_NEEDS", 2)
    assert refusals(services, tenant_id, pictures=pictures) == [
        "request: a job can start from at most 2 others"
    ]
    monkeypatch.setattr(new_needs, "MAX_DEPTH", 1)
    assert refusals(services, tenant_id, pictures=pictures[:1]) == [
        "request.pictures[0]: more than 50 unfinished jobs in a row; wait for some of them"
    ]


def test_the_same_request_again(services: Services, tenant_id: UUID) -> None:
    """Under its key it gives the first job again, whatever has become of what it needs."""
    picture = image(services, tenant_id)
    request = {"pictures": [f"job:{picture}"]}
    clip = submit(services, tenant_id, "case-clip", "k", **request)
    finish_all(
        services.engine, take_some(services.engine), lambda job_id: broken(job_id, retry=False)
    )
    assert submit(services, tenant_id, "case-clip", "k", **request) == clip


def test_a_campaign(services: Services, tenant_id: UUID) -> None:
    """Each recipient's jobs are tied as its creatives are, under the creatives' names."""
    spec = from_mapping(
        {
            "name": "Bundle",
            "recipients": {"id": "id", "rows": [{"id": 1}, {"id": 2}]},
            "creatives": [
                {
                    "name": "clip",
                    "kind": "case-clip",
                    "pictures": ["creative:picture", "shots/{{ id }}.jpg"],
                    "voice": "creative:voice",
                },
                {"name": "picture", "prompt": "a mug", "size": "64x64"},
                {"name": "voice", "kind": "case-sound", "text": "hello {{ id }}"},
            ],
        }
    )
    campaign_id = submissions.submit_campaign(services, tenant_id, spec)
    fan_out(services.engine)
    jobs = campaign_jobs(services.engine, campaign_id)
    # Picture, voice and clip of each.
    for picture, voice, clip in (jobs[:3], jobs[3:]):
        assert seen(services, tenant_id, clip).needs == (picture, voice)
        assert seen(services, tenant_id, picture).needs == ()
    names = rows(services.engine, "SELECT DISTINCT name FROM job_needs ORDER BY name")
    assert [row.name for row in names] == ["picture", "voice"]
