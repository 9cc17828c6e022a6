"""Deletes objects that no artifact refers to: what lost, stopped and cancelled work has left."""

import logging

from sqlalchemy import Engine

from storage import orphans
from storage.objects import ObjectStore, ObjectStoreError, claim_prefix
from storage.orphans import Noted

_log = logging.getLogger(__name__)

CLAIMS_A_PASS = 100
DELETED_AT_ONCE = 1000
"""As many as one call of S3 takes."""


def collect_orphans(engine: Engine, objects: ObjectStore) -> int:
    """Look at a portion of the claims that are due; how many objects were deleted.

    While the bucket is away nothing is lost: what was not looked at stays due.
    """
    taken = orphans.take(engine, CLAIMS_A_PASS)
    deleted = 0
    for place, noted in enumerate(taken):
        try:
            found = _collect(engine, objects, noted)
        except ObjectStoreError as error:
            _log.warning("orphans: the bucket does not answer, trying again later: %s", error)
            orphans.put_back(engine, taken[place:])
            break
        if found:
            _log.info("claim %s: deleted %d objects without an artifact", noted.claim_id, found)
        deleted += found
        orphans.looked(engine, noted)
    return deleted


def _collect(engine: Engine, objects: ObjectStore, noted: Noted) -> int:
    prefix = claim_prefix(noted.claim_id)
    # All of them before the first is deleted: a listing that is cut short costs another look.
    keys = orphans.unreferenced(engine, list(objects.keys(prefix)))
    for start in range(0, len(keys), DELETED_AT_ONCE):
        objects.delete(keys[start : start + DELETED_AT_ONCE])
    try:
        objects.abort_uploads(prefix)
    except ObjectStoreError as error:
        # Not every store can list them, and the bucket's own rule ends them as well.
        _log.warning("orphans: could not look for parts of uploads: %s", error)
    return len(keys)
