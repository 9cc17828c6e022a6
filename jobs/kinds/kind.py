"""What every kind of job declares."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from storage.models import ModelCard


class KindRequest(BaseModel):
    """What the request of every kind has. ``seed`` None: derived from the job's id."""

    model: str
    seed: int | None


@dataclass(frozen=True)
class Kind:
    """A kind of job: its request, and what must be equal for requests to share a batch.

    ``templates`` names the fields that a campaign may write as Liquid templates; every other
    field is the same for all recipients of a creative, and so is the batch key.
    """

    name: str
    summary: str
    Request: type[KindRequest]
    templates: frozenset[str]
    default_model: str
    example: Mapping[str, Any]
    resolve: Callable[[Any, ModelCard], KindRequest]
    """Fill what the request leaves open from the model's card; raise BadInputError if the
    model cannot do it."""
    batch_facts: Callable[[Any], Mapping[str, Any]]
    """The values of a resolved request that must be equal within one batch."""

    def batch_key(self, request: KindRequest, card: ModelCard) -> str:
        """32 hex digits over everything that must be equal for jobs to share one batch."""
        facts = {"kind": self.name, "model": card.identity, **self.batch_facts(request)}
        canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]
