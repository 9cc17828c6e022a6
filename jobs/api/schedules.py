"""``/v1/schedules``."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from jobs.api.access import Opened, TenantId
from jobs.api.bodies import Fire, FireList, Run, RunPage, Schedule, ScheduleList
from jobs.api.documents import json_text
from jobs.campaigns import document
from jobs.campaigns.file import CampaignSpec
from jobs.schedules import file as schedule_file
from jobs.schedules import requests
from jobs.schedules.file import ScheduleFields, ScheduleSpec

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])


# A reference in an OpenAPI document starts at its root, not at the schema that makes it.
_CAMPAIGN = (
    "#/paths/~1v1~1schedules/post/requestBody/content/application~1json/schema/properties/campaign"
)
_SCHEMA: dict[str, Any] = ScheduleFields.model_json_schema()
_SCHEMA["properties"]["campaign"] = CampaignSpec.model_json_schema(
    ref_template=_CAMPAIGN + "/$defs/{model}"
)
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}


# It asks for the tenant, so that no body is read for nobody.
async def _spec(request: Request, _: TenantId) -> ScheduleSpec:
    return schedule_file.from_mapping(document.parse_json(await json_text(request), "body"))


Spec = Annotated[ScheduleSpec, Depends(_spec)]


@router.post("", status_code=201, openapi_extra=_BODY)
def add(spec: Spec, tenant_id: TenantId, services: Opened) -> Schedule:
    """Add a schedule, checked with its whole campaign."""
    return Schedule.of(requests.add(services, tenant_id, spec))


@router.get("")
def list_schedules(tenant_id: TenantId, services: Opened) -> ScheduleList:
    """The schedules of your tenant, by name."""
    found = requests.every(services, tenant_id)
    return ScheduleList(schedules=[Schedule.of(view) for view in found])


@router.get("/{schedule_id}")
def show(schedule_id: UUID, tenant_id: TenantId, services: Opened) -> Schedule:
    """One schedule."""
    return Schedule.of(requests.show(services, tenant_id, schedule_id))


@router.put("/{schedule_id}", openapi_extra=_BODY)
def replace(schedule_id: UUID, spec: Spec, tenant_id: TenantId, services: Opened) -> Schedule:
    """Give a schedule another definition; what is due by now still runs under the old one."""
    return Schedule.of(requests.replace(services, tenant_id, schedule_id, spec))


@router.delete("/{schedule_id}", status_code=204)
def remove(schedule_id: UUID, tenant_id: TenantId, services: Opened) -> None:
    """Delete a schedule with its history; the campaigns that it has started stay."""
    requests.remove(services, tenant_id, schedule_id)


@router.post("/{schedule_id}/pause")
def pause(schedule_id: UUID, tenant_id: TenantId, services: Opened) -> Schedule:
    """Let a schedule fire no more until it is resumed."""
    return Schedule.of(requests.pause(services, tenant_id, schedule_id))


@router.post("/{schedule_id}/resume")
def resume(schedule_id: UUID, tenant_id: TenantId, services: Opened) -> Schedule:
    """Let a schedule fire again from now on."""
    return Schedule.of(requests.resume(services, tenant_id, schedule_id))


@router.post("/{schedule_id}/run-now", status_code=202)
def run_now(schedule_id: UUID, tenant_id: TenantId, services: Opened) -> Run:
    """Have a run start at once, whatever window, blackout dates and pause say."""
    return Run.of(requests.run_now(services, tenant_id, schedule_id))


@router.get("/{schedule_id}/next")
def upcoming(
    schedule_id: UUID,
    tenant_id: TenantId,
    services: Opened,
    count: Annotated[int, Query(ge=1, le=100)] = 5,
) -> FireList:
    """When a schedule fires next."""
    found = requests.upcoming(services, tenant_id, schedule_id, count)
    return FireList(fires=[Fire.of(item) for item in found])


@router.get("/{schedule_id}/history")
def history(
    schedule_id: UUID,
    tenant_id: TenantId,
    services: Opened,
    before: Annotated[datetime | None, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> RunPage:
    """What became of a schedule's fires, the newest first."""
    found = requests.history(services, tenant_id, schedule_id, before=before, limit=limit)
    return RunPage(
        runs=[Run.of(view) for view in found],
        next=found[-1].fire_time if len(found) == limit else None,
    )
