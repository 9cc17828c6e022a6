"""How workers are, by the command and over HTTP."""

from uuid import UUID

from sqlalchemy import Engine

from jobs.settings import Settings
from storage import workers
from storage.workers import State
from tests.integration.doors import PROBLEM, new_key, served
from tests.integration.ledger_cases import execute
from tests.integration.test_cli import Run, environment, run

__all__ = ["environment", "run"]

BUSY = State(
    memory_used_bytes=2_345_000_000,
    memory_total_bytes=12_600_000_000,
    models=["mugs", "cups"],
    batch_key="3f2a",
    outputs_per_s=3.5,
    counters={"compiles": 2, "recompile_limit": 1},
)


def test_workers(run: Run, settings: Settings, engine: Engine) -> None:
    """Both doors say the same: what each is at and has loaded, and one that was not seen lately."""
    assert run("workers").out == "there is none\n"
    workers.seen(engine, name="old@here", pool="small", device="cpu-0")
    execute(engine, "UPDATE workers SET seen_at = '2026-01-02 03:04:05+00'")
    workers.seen(engine, name="cuda-1@here", pool="default", device="cuda-1", state=State())
    workers.seen(engine, name="cuda-0@here", pool="default", device="cuda-0", state=BUSY)
    listed = run("workers", "--json").document
    assert [(one["name"], one["is_up"]) for one in listed] == [
        ("cuda-0@here", True),
        ("cuda-1@here", True),
        ("old@here", False),
    ]
    busy = listed[0]
    assert (busy["memory_used_bytes"], busy["models"]) == (2_345_000_000, ["mugs", "cups"])
    assert (busy["batch_key"], busy["outputs_per_s"]) == ("3f2a", 3.5)
    assert busy["counters"] == {"compiles": 2, "recompile_limit": 1}
    assert run("workers").out.splitlines() == [
        (
            "cuda-0@here: at 3f2a; pool default; 3.50 outputs/s; 2.3 of 12.6 GB; "
            "models: mugs, cups; compiles: 2, recompile limit: 1"
        ),
        "    -> RUNS EAGER: the recompile limit was hit 1 times",
        "cuda-1@here: idle; pool default; models: none",
        "old@here: not seen since 2026-01-02 03:04:05+00:00; pool small; models: none",
    ]
    with served(settings, new_key(engine, is_admin=True)) as client:
        answer = client.get("/v1/workers").json()
    assert [{**one, "started_at": 0, "seen_at": 0} for one in answer] == [
        {**one, "started_at": 0, "seen_at": 0} for one in listed
    ]


def test_only_administrators_see_workers(
    settings: Settings, engine: Engine, tenant_id: UUID
) -> None:
    """What runs where is no tenant's business."""
    with served(settings, new_key(engine)) as client:
        answer = client.get("/v1/workers")
    assert (answer.status_code, answer.headers["content-type"]) == (403, PROBLEM)
    assert "presswork tenant add NAME --admin" in answer.json()["detail"]
