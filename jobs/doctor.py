"""Looks at each service and says what to do about what is wrong."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from jobs.devices import parse_devices
from jobs.services import Services, open_services
from jobs.settings import Settings
from storage import clock, database, workers
from storage.objects import ObjectStoreError

POSTGRES_OLDEST = 180_000
WORKER_SEEN_S = 60


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    name: str
    ok: bool
    says: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which one thing needs another."""
    with open_services(settings, "presswork doctor", pool_size=1) as services:
        return list(_findings(services))


def _findings(services: Services) -> Iterator[Finding]:
    database_answers = _database(services.engine)
    yield database_answers
    if database_answers.ok:
        yield from (
            look(services.engine) for look in (_schema, _clock, _workers, _clocks, _compiled)
        )
    yield _broker(services)
    yield _bucket(services)
    if _compiles(services.settings):
        yield _compiler()


def _database(engine: Engine) -> Finding:
    try:
        with engine.begin() as connection:
            version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    except DBAPIError as error:
        return Finding(
            "database",
            ok=False,
            says=str(error.orig).strip(),
            advice="start PostgreSQL (`presswork up`), or correct PRESSWORK_DATABASE_URL",
        )
    return Finding(
        "database",
        ok=version >= POSTGRES_OLDEST,
        says=f"PostgreSQL {version // 10_000}.{version % 10_000}",
        advice="use PostgreSQL 18 or newer: ids come from uuidv7()",
    )


def _schema(engine: Engine) -> Finding:
    return Finding(
        "schema",
        ok=database.behind(engine) is None,
        says=f"at {database.revision(engine)}, this release needs {database.newest_revision()}",
        advice="run `presswork migrate`",
    )


def _clock(engine: Engine) -> Finding:
    with engine.begin() as connection:
        skew_s = clock.ahead_s(connection)
    return Finding(
        "clock",
        ok=abs(skew_s) <= clock.TOLERATED_S,
        says=f"{skew_s:+.1f} s from the database's",
        advice="set this machine's clock: S3 refuses requests that are signed at a wrong time",
    )


def _workers(engine: Engine) -> Finding:
    try:
        live = workers.live(engine, within_s=WORKER_SEEN_S)
    except DBAPIError:
        live = []
    return Finding(
        "workers",
        ok=bool(live),
        says=", ".join(live) if live else f"none was seen in the last {WORKER_SEEN_S} s",
        advice="start one with `presswork worker --devices all`",
    )


def _clocks(engine: Engine) -> Finding:
    try:
        skews = workers.clock_skews(engine, within_s=WORKER_SEEN_S)
    except DBAPIError:
        skews = {}  # the schema is to blame, which has been said
    off = ", ".join(f"{name} {skew_s:+.1f} s" for name, skew_s in skews.items())
    return Finding(
        "worker clocks",
        ok=not skews,
        says=f"from the database's: {off}" if skews else "right",
        advice="set the clocks of these workers' machines (NTP): S3 refuses what they sign",
    )


def _compiled(engine: Engine) -> Finding:
    try:
        found = workers.listed(engine, within_s=WORKER_SEEN_S)
    except DBAPIError:
        found = []
    slow = {one.name: why for one in found if one.is_up and (why := runs_eager(one.counters))}
    return Finding(
        "compiled code",
        ok=not slow,
        says="; ".join(f"{name} {why}" for name, why in slow.items()) or "nothing runs without",
        advice="the log of each says where; they work on, but slower: start them again once it is "
        "mended",
    )


def runs_eager(counters: Mapping[str, int]) -> str:
    """What a worker's counters say of code that should be compiled and is not; empty: all is."""
    said = []
    if limit := counters.get("recompile_limit"):
        said.append(f"RUNS EAGER: the recompile limit was hit {limit} times")
    if failures := counters.get("compile_failures"):
        said.append(f"RUNS EAGER: compiling failed {failures} times")
    return ", ".join(said)


def _broker(services: Services) -> Finding:
    trouble = services.wake_ups.trouble()
    waiting = sum(services.wake_ups.waiting(pool) or 0 for pool in services.settings.pools)
    return Finding(
        "broker",
        ok=trouble is None,
        says=trouble or f"takes wake-ups, {waiting} waiting",
        advice="start Valkey (`presswork up`), give it memory, or correct PRESSWORK_BROKER_URL; "
        "work goes on without it, at the pace of the workers' own looks",
    )


def _bucket(services: Services) -> Finding:
    key, body = f"doctor/{uuid4()}", b"presswork doctor"
    try:
        services.objects.put(key, body, "text/plain")
        same = services.objects.get(key) == body
        services.objects.delete([key])
    except ObjectStoreError as error:
        return Finding(
            "bucket",
            ok=False,
            says=str(error),
            advice="start the object store (`presswork up`), or correct PRESSWORK_S3_ENDPOINT, "
            "PRESSWORK_S3_BUCKET and the AWS variables; the bucket must exist",
        )
    return Finding(
        "bucket",
        ok=same,
        says="stores, reads and deletes" if same else "gave back other bytes than were stored",
        advice="do not use this object store",
    )


def _compiles(settings: Settings) -> bool:
    """Whether a worker on this machine would compile."""
    if settings.compiles_on("cpu"):
        return True
    try:
        return any(settings.compiles_on(slot.type) for slot in parse_devices("all"))
    except ValueError:  # of CUDA_VISIBLE_DEVICES, which says so to the worker
        return False


def _compiler() -> Finding:
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    return Finding(
        "compiler",
        ok=path is not None,
        says=path or f"no {name} on the path, which workers of this machine compile models with",
        advice="install a C++ compiler (Debian: `apt-get install g++`), name one in CXX, or set "
        "PRESSWORK_COMPILE=off; without one models run eager, and slower",
    )
