"""Jobs for the tiny pipelines, and the pictures that come of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.kinds.image import IMAGE, ImageRequest, resolve
from jobs.kinds.image_details import TASKS, details_of
from storage.models import BUILT_IN, ModelCard
from tests.contracts.test_family import Steps
from workers.families.diffusion import Diffusion
from workers.families.diffusion.load import Loaded
from workers.family import Adapter, Item, JobError, Output
from workers.inputs import sample

FAMILY = Diffusion()
MUG, APPLE, EDGES, MASK = (
    "sample:mug.png",
    "sample:apple.png",
    "sample:edges.png",
    "sample:mask.png",
)
LEVEL = 1 / 255 + 1e-6
"""One of the 256 levels that a pixel has."""

Models = Callable[[str], Loaded]


def card_of(name: str) -> ModelCard:
    """A card that says what the class can do."""
    details = details_of(name) or {"tasks": TASKS}
    return replace(BUILT_IN["debug-diffusion"], name=name, details=details)


def item(model: Loaded, seed: int = 1, *adapters: Adapter, **fields: Any) -> Item:
    """A small job for the model."""
    plain = {"prompt": "a mug", "size": "32x32", "steps": 2, "guidance": 4.0}
    fields = {**plain, **fields, "model": model.card.name, "seed": seed}
    request = resolve(ImageRequest.model_validate(fields), model.card)
    inputs = {field: [sample(where.place)] for field, where in IMAGE.references(request)}
    return Item(uuid4(), request, inputs, adapters)


def results(
    model: Loaded, *items: Item, context: Steps | None = None
) -> list[list[Output] | JobError]:
    """What one call of the family makes of each item."""
    made = dict(FAMILY.generate(model, items, context or Steps()))
    assert sorted(made) == list(range(len(items)))
    return [made[index] for index in range(len(items))]


def pictures(model: Loaded, *items: Item, context: Steps | None = None) -> list[NDArray[Any]]:
    """The first picture of each item, from 0 to 1."""
    made = results(model, *items, context=context)
    assert not [each for each in made if isinstance(each, JobError)], made
    return [pixels(each[0]) for each in made if isinstance(each, list)]


def pixels(output: Output) -> NDArray[Any]:
    """The picture's levels from 0 to 1."""
    with Image.open(BytesIO(output.data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image, dtype=np.float64) / 255


def apart(one: NDArray[Any], two: NDArray[Any]) -> float:
    """How far two pictures are apart at most."""
    return float(np.abs(one - two).max())


def same_alone(model: Loaded, items: Sequence[Item], together: Sequence[NDArray[Any]]) -> None:
    """Each item's picture is the same without its mates."""
    for one, made in zip(items, together, strict=True):
        assert apart(pictures(model, one)[0], made) <= LEVEL


def replaced(one: Item, **fields: Any) -> Item:
    """The same job with some fields changed."""
    return replace(one, request=one.request.model_copy(update=fields))


def error_of(model: Loaded, one: Item) -> JobError:
    """Why an item has no picture."""
    (made,) = results(model, one)
    assert isinstance(made, JobError)
    assert not made.retry
    return made
