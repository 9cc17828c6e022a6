"""Who is asking: the tenant behind the API key, and the services of this process."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from jobs.services import Services
from storage import database, tenants

_bearer = HTTPBearer(auto_error=False, description="An API key of your tenant.")


def services(request: Request) -> Services:
    """Opened by the app's lifespan; 503 until the schema is one that this code can work with."""
    opened: Services = request.app.state.services
    if not request.app.state.migrated:
        reason = database.behind(opened.engine)
        if reason:
            raise HTTPException(503, reason, headers={"Retry-After": "5"})
        request.app.state.migrated = True
    return opened


def tenant(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    services: Annotated[Services, Depends(services)],
) -> UUID:
    """The tenant whose key came with the request; 401 without a good one."""
    if credentials:
        with services.engine.begin() as connection:
            tenant_id = tenants.authenticate(connection, credentials.credentials)
        if tenant_id:
            return tenant_id
    raise HTTPException(
        401,
        "send your API key as `Authorization: Bearer pw_...`",
        headers={"WWW-Authenticate": "Bearer"},
    )


TenantId = Annotated[UUID, Depends(tenant)]
Opened = Annotated[Services, Depends(services)]
