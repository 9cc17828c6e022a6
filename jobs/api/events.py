"""``/v1/jobs/{job_id}/events``: what a training tells of its course, as a list and as a stream."""

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query
from fastapi.responses import RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.concurrency import run_in_threadpool

from jobs import events
from jobs.api.access import Opened, TenantId
from jobs.events import LOOK_S, PAGE
from jobs.problems import NotFoundError
from jobs.services import Services
from storage.job_events import Course, JobEvent
from storage.lifecycle import FINAL

router = APIRouter(prefix="/v1/jobs/{job_id}/events", tags=["jobs"])

AWAY_LOOK_S = 5.0
"""How often a stream looks whether a database that does not answer is back."""
BIGGEST_ID = 2**63 - 1

After = Annotated[
    int, Query(ge=0, le=BIGGEST_ID, description="The id of the last event that you have seen.")
]


class Event(BaseModel):
    """Something that has happened in a training; ``files`` in its data are links to the bytes."""

    id: int
    at: datetime
    name: str
    data: dict[str, Any]

    @classmethod
    def of(cls, job_id: UUID, event: JobEvent) -> Self:
        """With links in place of keys."""
        data = dict(event.data)
        if "files" in data:
            links = f"/v1/jobs/{job_id}/events/{event.id}/files/"
            data["files"] = [f"{links}{number}" for number in range(len(data["files"]))]
        return cls(id=event.id, at=event.at, name=event.name, data=data)


class EventPage(BaseModel):
    """Some events in their order; ``next`` is the cursor of the following page.

    Without a following page there may be one later: ask again from behind the last event's id.
    """

    events: list[Event]
    next: int | None


@router.get("")
def list_events(
    job_id: UUID,
    tenant_id: TenantId,
    services: Opened,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> EventPage:
    """What a training has told so far, oldest first."""
    found = events.look(services, tenant_id, job_id, after, limit).events
    return EventPage(
        events=[Event.of(job_id, event) for event in found],
        next=found[-1].id if len(found) == limit else None,
    )


# Here, since an answer that has begun cannot become a 404 any more.
def _seen(
    job_id: UUID,
    tenant_id: TenantId,
    services: Opened,
    after: After = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=BIGGEST_ID)] = None,
) -> int:
    """The id from behind which to stream, of a job that is there."""
    seen = after if last_event_id is None else last_event_id
    events.look(services, tenant_id, job_id, seen, 1)
    return seen


@router.get("/stream", response_class=EventSourceResponse)
async def stream(
    job_id: UUID,
    tenant_id: TenantId,
    services: Opened,
    seen: Annotated[int, Depends(_seen)],
) -> AsyncIterator[ServerSentEvent]:
    """What a training tells, as it happens: an event per event, and `end` once it is over.

    With `Last-Event-ID` it goes on from there.
    """
    while True:
        # Between two looks nothing is held but this coroutine, which ends with its client.
        course = await _look(services, tenant_id, job_id, seen)
        if course is None:
            return
        for event in course.events:
            seen = event.id
            yield ServerSentEvent(event=event.name, id=str(event.id), data=Event.of(job_id, event))
        if len(course.events) == PAGE:
            continue
        if course.status in FINAL:
            yield ServerSentEvent(event="end", data={"status": course.status})
            return
        await asyncio.sleep(LOOK_S)


async def _look(services: Services, tenant_id: UUID, job_id: UUID, seen: int) -> Course | None:
    """What is new, once the database answers; None: the job was deleted meanwhile."""
    while True:
        try:
            return await run_in_threadpool(events.look, services, tenant_id, job_id, seen, PAGE)
        except NotFoundError:
            return None
        except (OperationalError, InterfaceError, NoConnectionError):
            await asyncio.sleep(AWAY_LOOK_S)


@router.get("/{event_id}/files/{number}", status_code=307, response_class=RedirectResponse)
def file(
    job_id: UUID,
    event_id: Annotated[int, Path(ge=0, le=BIGGEST_ID)],
    number: Annotated[int, Path(ge=0)],
    tenant_id: TenantId,
    services: Opened,
) -> RedirectResponse:
    """Redirect to a link that is good for a few minutes, to a picture or text of a `sample`."""
    key = events.file(services, tenant_id, job_id, event_id, number)
    name = key.rpartition("/")[2]
    link = services.objects.presigned_get(
        key,
        filename=name,
        media_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
        expires_s=services.settings.link_s,
    )
    # The link carries its own proof; a shared cache must not hand it to someone else.
    return RedirectResponse(link, 307, headers={"Cache-Control": "private, no-store"})
