"""Every fault that Presswork must survive, by name."""

from collections.abc import Callable
from pathlib import Path

from tests.faults.audit import Finding
from tests.faults.cases import broker, bucket, database, device, races, sweepers, versions, workers
from tests.faults.trial import Case

ALL: dict[str, Case] = {
    **workers.CASES,
    **broker.CASES,
    **database.CASES,
    **bucket.CASES,
    **races.CASES,
    **sweepers.CASES,
    **device.CASES,
}
"""The cases that happen in a house that is there already."""

WITH_OWN_HOUSE: dict[str, Callable[[Path, int], Finding]] = {
    "old-and-new-workers": versions.old_and_new
}
"""The cases that build one, in a folder and by a seed."""

NEEDS_LEASE = frozenset(
    name
    for name in ALL
    if name.startswith(("kill-", "zombie-", "postgres-")) or name == "wake-up-lost"
)
"""The cases in which work waits for a lease to expire: also run with the leases of production."""
