"""What becomes of models once they are registered: they are listed, checked, and retired."""

from uuid import UUID

from jobs.problems import ConflictError, NotFoundError
from jobs.registry import mirror
from jobs.services import Services
from storage import models
from storage.licences import rules_of
from storage.models import ModelCard


def listed(services: Services, tenant_id: UUID) -> list[ModelCard]:
    """Everybody's models and adapters, and the tenant's own, without their manifests."""
    with services.engine.begin() as connection:
        return models.list_models(connection, tenant_id)


def found(services: Services, tenant_id: UUID, name: str) -> ModelCard:
    """The model of that name, with its manifest.

    Raises:
        NotFoundError: there is none, or it is another tenant's: the two are not told apart.
    """
    with services.engine.begin() as connection:
        card = models.find_for(connection, tenant_id, name)
    if card is None:
        raise NotFoundError(f"there is no model {name!r}")
    return card


def note_of(card: ModelCard) -> str:
    """What else is to be known of its licence, or licences."""
    notes = (rule.note for rule in rules_of(card.licence) if rule)
    return "; ".join(dict.fromkeys(note for note in notes if note))


def check(services: Services, tenant_id: UUID, name: str) -> list[str]:
    """Which of its files in the bucket are not what was registered; every byte is read.

    Raises:
        ConflictError: no digests of its files are known.
        NotFoundError: there is no such model.
    """
    card = found(services, tenant_id, name)
    if card.manifest is None:
        raise ConflictError(f"model {name!r} has no files in the bucket")
    return list(mirror.check(services.objects, card.manifest))


def retire(services: Services, tenant_id: UUID, name: str) -> ModelCard:
    """Let no new job name it.

    Raises:
        ConflictError: it is built in.
        NotFoundError: there is no such model.
    """
    found(services, tenant_id, name)
    with services.engine.begin() as connection:
        card = models.retire(connection, name)
    if card is None:
        raise ConflictError(f"model {name!r} is built in and cannot be retired")
    return card
