"""Which worker processes are up, what they are at, and how they are, as they say themselves."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine, text

from storage import clock


@dataclass(frozen=True)
class State:
    """What a worker says of itself at each heartbeat.

    Memory is the device's; on a CPU what the process holds, of what it may hold. ``models`` are
    those that are loaded, the last used first; ``batch_key`` is None between batches.
    ``outputs_per_s`` is over the last minute. ``counters`` count since the process was started.
    """

    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    models: Sequence[str] = ()
    batch_key: str | None = None
    outputs_per_s: float | None = None
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Worker(State):
    """A worker as it was last seen; ``is_up``: in the last seconds that were asked for."""

    name: str
    pool: str
    device: str
    is_up: bool
    started_at: datetime
    seen_at: datetime


def seen(engine: Engine, *, name: str, pool: str, device: str, state: State | None = None) -> float:
    """This process's heartbeat under the worker's ``name``.

    The answer is what it has noted beside it: by how many seconds this machine's clock is ahead.
    """
    state = state or State()
    with engine.begin() as connection:
        skew_s = clock.ahead_s(connection)
        connection.execute(
            text(
                """
                INSERT INTO workers AS before (
                    name, pool, device, pid, clock_skew_s, memory_used_bytes, memory_total_bytes,
                    models, batch_key, outputs_per_s, counters
                ) VALUES (
                    :name, :pool, :device, :pid, :clock_skew_s, :memory_used_bytes,
                    :memory_total_bytes, CAST(:models AS jsonb), :batch_key, :outputs_per_s,
                    CAST(:counters AS jsonb)
                )
                ON CONFLICT (name) DO UPDATE SET
                    pool = excluded.pool, device = excluded.device, pid = excluded.pid,
                    clock_skew_s = excluded.clock_skew_s,
                    memory_used_bytes = excluded.memory_used_bytes,
                    memory_total_bytes = excluded.memory_total_bytes,
                    models = excluded.models, batch_key = excluded.batch_key,
                    outputs_per_s = excluded.outputs_per_s, counters = excluded.counters,
                    started_at = CASE WHEN before.pid = excluded.pid THEN before.started_at
                                 ELSE clock_timestamp() END,
                    seen_at = clock_timestamp()
                """
            ),
            {
                "name": name,
                "pool": pool,
                "device": device,
                "pid": os.getpid(),
                "clock_skew_s": skew_s,
                "memory_used_bytes": state.memory_used_bytes,
                "memory_total_bytes": state.memory_total_bytes,
                "models": json.dumps(list(state.models)),
                "batch_key": state.batch_key,
                "outputs_per_s": state.outputs_per_s,
                "counters": json.dumps(dict(state.counters)),
            },
        )
    return skew_s


def gone(engine: Engine, *, name: str) -> None:
    """The worker has ended in order."""
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM workers WHERE name = :name AND pid = :pid"),
            {"name": name, "pid": os.getpid()},
        )


def live(engine: Engine, *, within_s: float) -> list[str]:
    """The names of the workers that were seen in the last ``within_s`` seconds."""
    with engine.begin() as connection:
        names = connection.execute(
            text(
                """
                SELECT name FROM workers
                WHERE seen_at > clock_timestamp() - make_interval(secs => :within_s)
                ORDER BY name
                """
            ),
            {"within_s": within_s},
        ).scalars()
        return list(names)


def clock_skews(engine: Engine, *, within_s: float) -> dict[str, float]:
    """By how many seconds the clock of each live worker that is off is ahead, by name."""
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                SELECT name, clock_skew_s FROM workers
                WHERE seen_at > clock_timestamp() - make_interval(secs => :within_s)
                  AND abs(clock_skew_s) > :tolerated_s
                ORDER BY name
                """
            ),
            {"within_s": within_s, "tolerated_s": clock.TOLERATED_S},
        ).all()
    return {row.name: row.clock_skew_s for row in rows}


def listed(engine: Engine, *, within_s: float) -> list[Worker]:
    """All workers by name, also those that ended without a word and are not forgotten yet."""
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                SELECT name, pool, device, started_at, seen_at, memory_used_bytes,
                    memory_total_bytes, models, batch_key, outputs_per_s, counters,
                    seen_at > clock_timestamp() - make_interval(secs => :within_s) AS is_up
                FROM workers ORDER BY name
                """
            ),
            {"within_s": within_s},
        ).mappings()
        return [Worker(**row) for row in rows]
