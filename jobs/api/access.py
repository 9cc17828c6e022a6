"""Who is asking: the tenant behind the API key, and the services of this process."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from jobs.services import Services
from storage import database, tenants
from storage.tenants import Caller

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


def caller(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    services: Annotated[Services, Depends(services)],
) -> Caller:
    """Whose key came with the request; 401 without a good one."""
    if credentials:
        with services.engine.begin() as connection:
            found = tenants.authenticate(connection, credentials.credentials)
        if found:
            return found
    raise HTTPException(
        401,
        "send your API key as `Authorization: Bearer pw_...`",
        headers={"WWW-Authenticate": "Bearer"},
    )


def tenant(caller: Annotated[Caller, Depends(caller)]) -> UUID:
    """The tenant whose key came with the request."""
    return caller.tenant_id


def admin(caller: Annotated[Caller, Depends(caller)]) -> Caller:
    """The caller, with the key of an administrator; 403 with any other."""
    if not caller.is_admin:
        raise HTTPException(
            403,
            "this needs the key of an administrator: `presswork tenant add NAME --admin` makes one",
        )
    return caller


TenantId = Annotated[UUID, Depends(tenant)]
Asking = Annotated[Caller, Depends(caller)]
Admin = Annotated[Caller, Depends(admin)]
Opened = Annotated[Services, Depends(services)]
