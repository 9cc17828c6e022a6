"""What is queued, and whose it is: what the turns of workers are chosen from.

Every question is a few probes of the claim's index, ``(pool, priority, tenant_id, batch_key, id)``:
its cost follows the number of tenants with work, never the number of jobs or keys.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Engine, text

CAMPAIGN_PRIORITY = 0
"""The column's default, which the jobs of campaigns have."""

TENANTS_LOOKED_AT = 256
"""How many tenants are told apart at a time: a probe each. Of more, the next ones in the circle."""

DEADLINE_NEAR_S = 900.0
"""From when on before a campaign closes its deadline counts more than its tenant's share."""

URGENT_LOOKED_AT = 64
_ABOVE_ALL = -(2**15)
_FIRST = UUID(int=0)


@dataclass(frozen=True)
class Urgent:
    """Queued jobs of one batch key of a campaign that closes soon: their ids lie in a range."""

    campaign_id: UUID
    tenant_id: UUID
    pool: str
    batch_key: str
    closes_at: datetime
    first_id: UUID
    last_id: UUID


@dataclass(frozen=True)
class Backlog:
    """The queued jobs of the best ``priority``.

    ``tenants`` are whose they are, each with the pools in which they wait, in the order of a
    circle; ``urgent`` those that close soon, the earliest first.
    """

    priority: int
    tenants: Mapping[UUID, Sequence[str]]
    urgent: Sequence[Urgent]


@dataclass(frozen=True)
class Turn:
    """What a claim may take: jobs of a key, ``urgent`` ones first, then of the tenants in order.

    Where those of ``priority`` do not fill the batch, less urgent ones of the same key and tenants
    do; but they alone are no reason to come.
    """

    pool: str
    batch_key: str
    priority: int
    tenants: Sequence[UUID]
    urgent: Sequence[Urgent] = ()


def look(
    connection: Connection, pools: Sequence[str], *, behind: int = _ABOVE_ALL, after: UUID = _FIRST
) -> Backlog | None:
    """The backlog of several pools; None: nothing is queued there.

    ``behind`` is a priority that is not meant, nor are those before it. The circle of tenants
    begins behind ``after``.
    """
    found = _tenants(connection, pools, behind, after, TENANTS_LOOKED_AT)
    if after != _FIRST and len(found) < TENANTS_LOOKED_AT:
        found += _tenants(connection, pools, behind, _FIRST, TENANTS_LOOKED_AT - len(found))
    if not found:
        return None
    priority = min(row[0] for row in found)
    tenants: dict[UUID, list[str]] = {}
    for of_row, pool, tenant_id in found:
        if of_row == priority and pool not in tenants.setdefault(tenant_id, []):
            tenants[tenant_id].append(pool)
    urgent = _urgent(connection, pools) if priority == CAMPAIGN_PRIORITY else []
    return Backlog(priority, tenants, urgent)


def _tenants(
    connection: Connection, pools: Sequence[str], behind: int, after: UUID, most: int
) -> list[tuple[int, str, UUID]]:
    """Priority, pool and tenant of what is queued of the best priority: a skip scan."""
    rows = connection.execute(
        _TENANTS, {"pools": list(pools), "behind": behind, "after": after, "most": most}
    )
    return [(row.priority, row.pool, row.tenant_id) for row in rows]


_TENANTS = text(
    """
    WITH RECURSIVE best AS MATERIALIZED (
        SELECT min(head.priority) AS priority
        FROM unnest(CAST(:pools AS text[])) AS served (pool) CROSS JOIN LATERAL (
            SELECT priority FROM jobs
            WHERE pool = served.pool AND status = 'queued' AND priority > :behind
            ORDER BY priority LIMIT 1
        ) AS head
    ), heads AS (
        SELECT best.priority, served.pool, head.tenant_id
        FROM best CROSS JOIN unnest(CAST(:pools AS text[])) AS served (pool) CROSS JOIN LATERAL (
            SELECT tenant_id FROM jobs
            WHERE pool = served.pool AND priority = best.priority AND status = 'queued'
              AND tenant_id > :after
            ORDER BY tenant_id LIMIT 1
        ) AS head
        UNION ALL
        SELECT heads.priority, heads.pool, next.tenant_id
        FROM heads CROSS JOIN LATERAL (
            SELECT tenant_id FROM jobs
            WHERE pool = heads.pool AND priority = heads.priority AND status = 'queued'
              AND tenant_id > heads.tenant_id
            ORDER BY tenant_id LIMIT 1
        ) AS next
    )
    SELECT priority, pool, tenant_id FROM heads LIMIT :most
    """
)


def _urgent(connection: Connection, pools: Sequence[str]) -> list[Urgent]:
    rows = connection.execute(
        text(
            """
            SELECT near.id, near.tenant_id, creatives.pool, creatives.batch_key, near.closes_at,
                   near.first_id, near.last_id
            FROM (
                SELECT id, tenant_id, closes_at,
                       (SELECT jobs.id FROM jobs WHERE jobs.campaign_id = campaigns.id
                        ORDER BY jobs.id LIMIT 1) AS first_id,
                       (SELECT jobs.id FROM jobs WHERE jobs.campaign_id = campaigns.id
                        ORDER BY jobs.id DESC LIMIT 1) AS last_id
                FROM campaigns
                WHERE closes_at > clock_timestamp() AND cancelled_at IS NULL
                  AND closes_at < clock_timestamp() + make_interval(secs => :near_s)
            ) AS near
            CROSS JOIN LATERAL (
                SELECT DISTINCT pool, batch_key FROM creatives
                WHERE campaign_id = near.id AND pool = ANY(CAST(:pools AS text[]))
            ) AS creatives
            CROSS JOIN LATERAL (
                SELECT FROM jobs
                WHERE jobs.pool = creatives.pool AND jobs.priority = :priority
                  AND jobs.tenant_id = near.tenant_id AND jobs.batch_key = creatives.batch_key
                  AND jobs.status = 'queued' AND jobs.id BETWEEN near.first_id AND near.last_id
                  -- Not by the index of a campaign's jobs: it holds those that are done as well.
                  AND jobs.campaign_id IS NOT DISTINCT FROM near.id
                LIMIT 1
            ) AS queued
            ORDER BY near.closes_at, near.id, creatives.batch_key LIMIT :most
            """
        ),
        {
            "near_s": DEADLINE_NEAR_S,
            "pools": list(pools),
            "priority": CAMPAIGN_PRIORITY,
            "most": URGENT_LOOKED_AT,
        },
    )
    return [Urgent(*row) for row in rows]


def next_key(
    connection: Connection, pool: str, priority: int, tenant_id: UUID, after: str
) -> str | None:
    """The next batch key of which a tenant has queued jobs: one probe."""
    key: str | None = connection.execute(
        text(
            """
            SELECT batch_key FROM jobs
            WHERE pool = :pool AND priority = :priority AND tenant_id = :tenant_id
              AND status = 'queued' AND batch_key > :after
            ORDER BY batch_key LIMIT 1
            """
        ),
        {"pool": pool, "priority": priority, "tenant_id": tenant_id, "after": after},
    ).scalar()
    return key


def queued_among(
    connection: Connection,
    pools: Sequence[str],
    priority: int,
    tenants: Sequence[UUID],
    batch_keys: Collection[str],
) -> list[tuple[UUID, str, str]]:
    """Of whom, in which pool and of which of the keys jobs are queued, in the order of tenants."""
    if not batch_keys:
        return []
    rows = connection.execute(
        text(
            """
            SELECT mates.tenant_id, served.pool, wanted.batch_key
            FROM unnest(CAST(:tenants AS uuid[])) WITH ORDINALITY AS mates (tenant_id, place)
            CROSS JOIN unnest(CAST(:pools AS text[])) AS served (pool)
            CROSS JOIN unnest(CAST(:batch_keys AS text[])) AS wanted (batch_key)
            -- Not EXISTS, of which the planner may make a join with all that is queued.
            CROSS JOIN LATERAL (
                SELECT FROM jobs
                WHERE jobs.pool = served.pool AND jobs.priority = :priority
                  AND jobs.tenant_id = mates.tenant_id AND jobs.batch_key = wanted.batch_key
                  AND jobs.status = 'queued'
                LIMIT 1
            ) AS queued
            ORDER BY place
            """
        ),
        {
            "tenants": list(tenants),
            "pools": list(pools),
            "batch_keys": list(batch_keys),
            "priority": priority,
        },
    )
    return [(row.tenant_id, row.pool, row.batch_key) for row in rows]


def queued_pools(engine: Engine) -> list[tuple[str, int]]:
    """The pools that have queued work, with how many workers were seen lately that serve each."""
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                """
                WITH RECURSIVE pools AS (
                    (SELECT pool FROM jobs WHERE status = 'queued' ORDER BY pool LIMIT 1)
                    UNION ALL
                    SELECT next.pool FROM pools CROSS JOIN LATERAL (
                        SELECT pool FROM jobs WHERE status = 'queued' AND pool > pools.pool
                        ORDER BY pool LIMIT 1
                    ) AS next
                )
                SELECT pool, (
                    SELECT count(*) FROM workers
                    WHERE pools.pool = ANY(string_to_array(workers.pool, ','))
                      AND seen_at > clock_timestamp() - interval '1 minute'
                ) AS workers FROM pools
                """
            )
        ).all()
    return [(row.pool, row.workers) for row in rows]
