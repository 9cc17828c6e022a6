"""How much a tenant's training may take: steps, hours, and pictures of its dataset."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from jobs.problems import Problem
from jobs.settings import Settings, variable
from jobs.trainings.estimates import Estimate, duration
from storage import tenants, training_caps
from storage.datasets import Dataset

HOUR_S = 3600


@dataclass(frozen=True)
class Caps:
    """Those of a tenant: its own, and where it has none the deployment's."""

    tenant: str
    max_steps: int
    max_hours: float
    max_pictures: int

    @property
    def max_seconds(self) -> float:
        """How long a training may be at work in sum over its attempts."""
        return self.max_hours * HOUR_S


def caps_of(connection: Connection, settings: Settings, tenant_id: UUID) -> Caps:
    """The caps of a tenant that there is."""
    own = training_caps.of(connection, tenant_id)
    chosen = {
        name: getattr(settings, f"train_{name}") if given is None else given
        for name, given in vars(own).items()
    }
    return Caps(tenant=tenants.get(connection, tenant_id).name, **chosen)


def problems_of(caps: Caps, steps: int, dataset: Dataset, estimate: Estimate) -> Iterator[Problem]:
    """What a training has too much of.

    ``steps`` are all, also those that were made before where it goes on from another one. Too long
    is only what was measured: a guess refuses nothing, and the cap still ends it.
    """
    if steps > caps.max_steps:
        message = (
            f"it has {steps} steps in all its parts, and a training may have {caps.max_steps}: ask "
            f"for fewer, or have the cap raised ({_how(caps, 'max_steps')})"
        )
        yield Problem(message, field="steps")
    if dataset.kind == "pictures" and dataset.count > caps.max_pictures:
        message = (
            f"dataset {dataset.name!r} has {dataset.count} pictures, and a training may have "
            f"{caps.max_pictures}: make a smaller dataset, or have the cap raised "
            f"({_how(caps, 'max_pictures')})"
        )
        yield Problem(message, field="dataset")
    if estimate.is_measured and (estimate.seconds or 0) > caps.max_seconds:
        message = (
            f"{estimate}, and a training may take {duration(caps.max_seconds)}: ask for fewer "
            f"steps, or have the cap raised ({_how(caps, 'max_hours')})"
        )
        yield Problem(message, field="steps")


def used_up(caps: Caps, *, job_id: UUID, step: int, steps: int) -> str:
    """What is said of a training that has been at work for as long as it may."""
    return (
        f"it has been at work for the {duration(caps.max_seconds)} that a training may take, and "
        f"has made {step} of {steps} steps. Have the cap raised ({_how(caps, 'max_hours')}), then "
        f"`presswork job retry {job_id}`: it goes on from there"
    )


def _how(caps: Caps, name: str) -> str:
    option = f"--{name.replace('_', '-')}"
    return (
        f"`presswork tenant limits {caps.tenant} {option}`, or {variable(f'train_{name}')} for all"
    )
