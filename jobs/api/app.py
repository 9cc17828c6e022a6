"""The FastAPI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from jobs.api import (
    artifacts,
    campaigns,
    datasets,
    events,
    files,
    jobs,
    models,
    pictures,
    schedules,
    trainings,
    workers,
)
from jobs.api.problems import add_handlers
from jobs.services import open_services
from jobs.settings import Settings

DATABASE_CONNECTIONS = 20


def make_app(settings: Settings) -> FastAPI:
    """The application; its services are open while it is served."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_services(settings, "presswork api", pool_size=DATABASE_CONNECTIONS) as services:
            app.state.services = services
            app.state.migrated = False
            yield

    # Its pages bring their scripts along: many machines with devices have no internet.
    app = FastAPIOffline(
        title="Presswork",
        summary="Marketing content in bulk: submit campaigns, poll jobs, fetch artifacts.",
        description="OpenAPI at `/openapi.json`; errors are RFC 9457 problems.",
        version="1",
        lifespan=lifespan,
    )
    add_handlers(app)
    for router in (
        jobs.router,
        campaigns.router,
        artifacts.router,
        datasets.router,
        events.router,
        files.router,
        models.router,
        pictures.router,
        schedules.router,
        trainings.router,
        workers.router,
    ):
        app.include_router(router)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app
