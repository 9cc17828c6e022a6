"""What every kind of job declares."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from jobs.kinds.references import Media, Reference, parse
from jobs.kinds.values import BANK_DETAIL, AdapterUse
from storage.models import ModelCard


class KindRequest(BaseModel):
    """What the request of every kind has. ``seed`` None: derived from the job's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    seed: int | None
    # Said only where it is not as usual, which workers of the release before do not know.
    reuse: Annotated[
        bool,
        Field(
            exclude_if=bool,
            description="Whether what an identical job (same `seed` given) makes will do.",
        ),
    ] = True

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
    as_made: Callable[[Any, ModelCard], Any] = lambda request, _: request
    """A resolved request as the model of the card runs it, where that differs: what the batch's
    facts are taken from."""
    inputs: Mapping[str, Media] = field(default_factory=lambda: MappingProxyType({}))

    def batch_key(
        self, request: KindRequest, card: ModelCard, adapters: Sequence[ModelCard] = ()
    ) -> str:
        """32 hex digits over everything that must be equal for jobs to share one batch.

        ``adapters`` are the cards of those that the request uses. One that can be banked may be
        another one in each job, with another weight; others are the same for all in the batch.
        """
        shared = self.batch_facts(self.as_made(request, card))
        facts = {"kind": self.name, "model": card.identity, **shared}
        if len(adapters) == 1 and adapters[0].details.get(BANK_DETAIL):
            facts["adapters"] = "bank"
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
