"""What becomes of models once they are registered: they are listed, checked, and retired."""

from jobs.problems import ConflictError, NotFoundError
from jobs.registry import mirror
from jobs.services import Services
from storage import models
from storage.licences import LICENCES
from storage.models import ModelCard


def listed(services: Services) -> list[ModelCard]:
    """All models and adapters, without their manifests."""
    with services.engine.begin() as connection:
        return models.list_models(connection)


def found(services: Services, name: str) -> ModelCard:
    """The model of that name, with its manifest; NotFoundError where there is none."""
    with services.engine.begin() as connection:
        card = models.find(connection, name)
    if card is None:
        raise NotFoundError(f"there is no model {name!r}")
    return card


def note_of(card: ModelCard) -> str:
    """What else is to be known of its licence."""
    rule = LICENCES.get(card.licence)
    return rule.note if rule else ""


def check(services: Services, name: str) -> list[str]:
    """Which of its files in the bucket are not what was registered; every byte is read.

    Raises:
        ConflictError: no digests of its files are known.
        NotFoundError: there is no such model.
    """
    card = found(services, name)
    if card.manifest is None:
        raise ConflictError(f"model {name!r} has no files in the bucket")
    return list(mirror.check(services.objects, card.manifest))


def retire(services: Services, name: str) -> ModelCard:
    """Let no new job name it.

    Raises:
        ConflictError: it is built in.
        NotFoundError: there is no such model.
    """
    found(services, name)
    with services.engine.begin() as connection:
        card = models.retire(connection, name)
    if card is None:
        raise ConflictError(f"model {name!r} is built in and cannot be retired")
    return card
