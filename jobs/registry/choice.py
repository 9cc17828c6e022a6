"""Whether a job may use the model and the adapters that it names, for what it is for."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from jobs.kinds.values import AdapterUse
from jobs.problems import BadInputError, Problem, nearest
from storage.models import ADAPTER, ModelCard

Use = Literal["commercial", "internal"]
"""What the outputs are for."""

USE_SAYS = (
    "What it is made for. Models whose licence forbids commercial use are for `internal` only."
)


def choose(
    cards: Mapping[str, ModelCard], model: str, adapters: Sequence[AdapterUse], use: Use
) -> ModelCard:
    """The card of the model, once it and all adapters may be used.

    Raises:
        BadInputError: why not; fields are relative to the request: ``model``, ``adapters[0].name``.
    """
    problems = []
    card = cards.get(model)
    if card is None or card.kind == ADAPTER:
        problems.append(Problem(_unknown_model(cards, model), field="model"))
    else:
        problems += [Problem(wrong, field="model") for wrong in _wrong(card, use)]
        for index, adapter in enumerate(adapters):
            problems += [
                Problem(wrong, field=f"adapters[{index}].name")
                for wrong in _wrong_adapter(cards, adapter.name, card, use)
            ]
    if problems:
        raise BadInputError(*problems)
    assert card is not None
    return card


def adapters_of(cards: Mapping[str, ModelCard], adapters: Sequence[AdapterUse]) -> list[ModelCard]:
    """The cards of adapters that `choose` has let pass."""
    return [cards[adapter.name] for adapter in adapters]


def _unknown_model(cards: Mapping[str, ModelCard], name: str) -> str:
    if name in cards:
        return f"{name!r} is an adapter for {cards[name].base!r}, not a model"
    known = [key for key, card in cards.items() if card.kind != ADAPTER and not card.retired_at]
    return f"unknown model {name!r}; {nearest(name, known)}"


def _wrong_adapter(
    cards: Mapping[str, ModelCard], name: str, model: ModelCard, use: Use
) -> list[str]:
    card = cards.get(name)
    if card is None:
        known = [key for key, card in cards.items() if card.base == model.name]
        return [f"unknown adapter {name!r}; {nearest(name, known)}".removesuffix("; ")]
    if card.kind != ADAPTER:
        return [f"{name!r} is a model, not an adapter"]
    if card.base != model.name:
        return [f"adapter {name!r} is for model {card.base!r}, not {model.name!r}"]
    return _wrong(card, use)


def _wrong(card: ModelCard, use: Use) -> list[str]:
    wrong = []
    if card.retired_at:
        wrong.append(f"{card.name!r} was retired on {card.retired_at.date()}; choose another")
    if card.manifest_sha256 is None and card.source.startswith(("dir:", "hub:")):
        wrong.append(
            f"{card.name!r} was registered before files were checked: add it again, by another name"
        )
    if use == "commercial" and not card.commercial:
        wrong.append(f"{_forbids(card)}: choose another, or {_SAY_INTERNAL}")
    return [*wrong, *_ended(card)]


_SAY_INTERNAL = "say `use: internal` if nobody earns by it"


def _forbids(card: ModelCard) -> str:
    return f"the licence of {card.name!r} ({card.licence}) forbids commercial use"


def _ended(card: ModelCard) -> Iterator[str]:
    if has_ended(card):
        yield f"the licence of {card.name!r} ended on {card.licence_until}"


def has_ended(card: ModelCard) -> bool:
    """Whether the last day of its licence is over, in UTC."""
    return card.licence_until is not None and card.licence_until < datetime.now(UTC).date()


def check_again(cards: Mapping[str, ModelCard], parameters: Mapping[str, Any]) -> None:
    """BadInputError if a job that was submitted before must not be made any more.

    ``parameters`` are its request's. That a model was retired meanwhile does not matter.
    """
    wrong = [says for card in _used(cards, parameters) for says in _ended(card)]
    if wrong:
        raise BadInputError(*(Problem(says, field="model") for says in wrong))


def forbidden_source(
    cards: Mapping[str, ModelCard], parameters: Mapping[str, Any], use: Use
) -> str | None:
    """Why what another job made must not be used for this; ``parameters`` are its request's."""
    for card in _used(cards, parameters):
        if use == "commercial" and not card.commercial:
            return f"{_forbids(card)} of what it made: {_SAY_INTERNAL}"
    return None


def _used(cards: Mapping[str, ModelCard], parameters: Mapping[str, Any]) -> Iterator[ModelCard]:
    names = [parameters.get("model"), *(each["name"] for each in parameters.get("adapters", ()))]
    yield from (cards[name] for name in names if name in cards)
