"""What waits first: looked at, not claimed."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Engine, text

from storage.ledger.claim import Batch, CampaignPart, ClaimedJob

NO_CLAIM = UUID(int=0)

# Each key is one probe of an index on queued jobs, as in a claim, and its jobs are another.
_HEADS = text(
    """
    WITH RECURSIVE keys AS (
        (SELECT priority, tenant_id, batch_key FROM jobs WHERE pool = :pool AND status = 'queued'
         ORDER BY priority, tenant_id, batch_key LIMIT 1)
        UNION ALL
        SELECT next.* FROM keys CROSS JOIN LATERAL (
            SELECT priority, tenant_id, batch_key FROM jobs
            WHERE pool = :pool AND status = 'queued'
              AND (priority, tenant_id, batch_key)
                  > (keys.priority, keys.tenant_id, keys.batch_key)
            ORDER BY priority, tenant_id, batch_key LIMIT 1
        ) AS next
    ), first AS (SELECT * FROM keys LIMIT :keys)
    SELECT jobs.*, creatives.name, creatives.parameters, recipients.key, recipients.data
    FROM first CROSS JOIN LATERAL (
        SELECT id, tenant_id, kind, attempts, request, creative_id, recipient_id, batch_key,
               priority
        FROM jobs WHERE pool = :pool AND status = 'queued'
          AND batch_key = first.batch_key AND priority = first.priority
          AND jobs.tenant_id = first.tenant_id
        ORDER BY id LIMIT :size
    ) AS jobs
    LEFT JOIN creatives ON creatives.id = jobs.creative_id
    LEFT JOIN recipients ON recipients.id = jobs.recipient_id
    ORDER BY jobs.priority, jobs.batch_key, jobs.id
    """
)


def waits(engine: Engine, pools: Sequence[str], job_id: UUID) -> bool:
    """Whether a job is queued in one of ``pools`` that is not less urgent than that one."""
    with engine.begin() as connection:
        found = connection.execute(
            text(
                """
                SELECT EXISTS (
                    SELECT FROM unnest(CAST(:pools AS text[])) AS pool
                    JOIN LATERAL (
                        SELECT priority FROM jobs
                        WHERE jobs.pool = pool.pool AND status = 'queued'
                        ORDER BY priority LIMIT 1
                    ) AS first ON true
                    WHERE first.priority <= (SELECT priority FROM jobs WHERE id = :id)
                )
                """
            ),
            {"pools": list(pools), "id": job_id},
        )
        return bool(found.scalar_one())


def heads(engine: Engine, pool: str, *, size: int, keys: int = 8) -> list[Batch]:
    """Up to ``size`` queued jobs of each of the first ``keys`` batch keys, as they would come.

    Nobody has a right to them by this: their claim is `NO_CLAIM`.
    """
    with engine.begin() as connection:
        rows = connection.execute(_HEADS, {"pool": pool, "size": size, "keys": keys}).all()
    jobs: dict[str, list[ClaimedJob]] = {}
    for row in rows:
        part = (
            CampaignPart(row.creative_id, row.name, row.parameters, row.key, row.data)
            if row.request is None
            else None
        )
        job = ClaimedJob(row.id, row.tenant_id, row.kind, row.attempts, row.request, part)
        jobs.setdefault(row.batch_key, []).append(job)
    return [Batch(NO_CLAIM, key, 0, tuple(found)) for key, found in jobs.items()]
