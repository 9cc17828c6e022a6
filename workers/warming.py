"""Compiling ahead: what waits in the queue says what will be needed."""

from collections.abc import Sequence

from storage.ledger.claim import Batch
from workers.family import Compiles, Item
from workers.inputs import Inputs
from workers.items import items_of
from workers.resident import Residency
from workers.room import Room


def warm(batches: Sequence[Batch], inputs: Inputs, residency: Residency, room: Room) -> None:
    """Have compiled what ``batches`` need that are of the first one's model.

    Those of others have their turn when their model is loaded, and those whose best size of call
    is not known when it is.

    Raises:
        Exception: as `Residency.get` does, and whatever a model raises.
    """
    model = None
    for batch in batches:
        items = [item for item in inputs.given(batch, items_of(batch)) if isinstance(item, Item)]
        # A variant of the model may be compiled for those with adapters: it is made when they run.
        items = [item for item in items if not item.request.uses]
        size = room.known_size(batch.batch_key)
        if not items or not size or (model is not None and items[0].request.model != model):
            continue
        model = items[0].request.model
        resident = residency.get(model)
        if isinstance(resident.family, Compiles):
            most = min(size, resident.family.max_batch(resident.model))
            resident.family.warm(resident.model, [*items, *[items[-1]] * most][:most])
