"""What every kind of job declares."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.kinds.references import Media, Reference, parse
from jobs.kinds.values import AdapterUse
from storage.models import ModelCard


class KindRequest(BaseModel):
    """What the request of every kind has. ``seed`` None: derived from the job's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    seed: int | None

    @property
    def uses(self) -> tuple[AdapterUse, ...]:
        """The adapters on top of the model; kinds that take any override this."""
        return ()


@dataclass(frozen=True)
class Kind:
    """A kind of job: its request, and what must be equal for requests to share a batch.

    ``makes`` is what its outputs are. ``templates`` names the fields that a campaign may write as
    Liquid templates; every other field is the same for all recipients of a creative, and so is the
    batch key. ``inputs`` names the fields that hold references to files (`jobs.kinds.references`),
    one or a tuple of them, and what these must be.
    """

    name: str
    summary: str
    makes: Media
    Request: type[KindRequest]
    templates: frozenset[str]
    default_model: str
    example: Mapping[str, Any]
    resolve: Callable[[Any, ModelCard], KindRequest]
    """Fill what the request leaves open from the model's card; raise BadInputError if the
    model cannot do it."""
    batch_facts: Callable[[Any], Mapping[str, Any]]
    """The values of a resolved request that must be equal within one batch."""
    inputs: Mapping[str, Media] = field(default_factory=lambda: MappingProxyType({}))

    def batch_key(self, request: KindRequest, card: ModelCard) -> str:
        """32 hex digits over everything that must be equal for jobs to share one batch."""
        facts = {"kind": self.name, "model": card.identity, **self.batch_facts(request)}
        canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]

    def references(self, request: KindRequest) -> Iterator[tuple[str, Reference]]:
        """Every file that a request starts from, with the field that names it.

        Raises:
            ValueError: one is no reference; fields of `values.ReferenceText` have been checked.
        """
        for name in self.inputs:
            value = getattr(request, name)
            several = isinstance(value, tuple)
            for index, text in enumerate(value if several else [value]):
                if text is not None:
                    yield (f"{name}[{index}]" if several else name), parse(text)
