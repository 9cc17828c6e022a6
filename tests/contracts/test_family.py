"""What every family of models promises the runner, shown on its debug model."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from jobs.kinds import KINDS
from storage.models import BUILT_IN, ModelCard
from workers.family import Device, Family, Item, Output, StopRequestedError
from workers.files import files_of
from workers.registry import FAMILIES

# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TOLERANCE = 1
"""Of 255, in fp32: a batch sums in another order than an image alone."""


class Steps:
    """A context that notes the steps, and stops the batch after ``last``."""

    def __init__(self, last: int | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self._last = last

    def step(self, done: int, total: int) -> None:
        """Note the step, or stop."""
        self.seen.append((done, total))
        if done == self._last:
            raise StopRequestedError


class Loaded:
    """A family with its debug model."""

    def __init__(self, family: Family[Any], card: ModelCard, cache: Path) -> None:
        self.family = family
        self.card = card
        self.model = family.load(files_of(card, cache), card, Device("cpu"))

    def items(self, count: int) -> list[Item]:
        """Requests that share a batch, each with a prompt and a seed of its own."""
        kind = KINDS[self.card.kind]
        requests = [
            {**kind.example, "model": self.card.name, "prompt": f"thing {n}", "seed": n}
            for n in range(count)
        ]
        return [
            Item(uuid4(), kind.resolve(kind.Request.model_validate(request), self.card))
            for request in requests
        ]

    def outputs(self, items: list[Item], context: Steps | None = None) -> list[Output]:
        """One output per item, in their order."""
        made = dict(self.family.generate(self.model, items, context or Steps()))
        assert sorted(made) == list(range(len(items)))
        outputs = []
        for index in range(len(items)):
            result = made[index]
            assert isinstance(result, list)
            assert len(result) == 1
            outputs.append(result[0])
        return outputs


@pytest.fixture(scope="module", params=[c for c in BUILT_IN.values() if "debug" in c.name])
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loaded]:
    """Each family with its debug model."""
    card: ModelCard = request.param
    cache = tmp_path_factory.getbasetemp() / "cache"
    loaded = Loaded(FAMILIES[card.family], card, cache)
    yield loaded
    loaded.family.unload(loaded.model)


def pixels(output: Output) -> NDArray[np.int16]:
    """The decoded picture, height x width x 3."""
    with Image.open(BytesIO(output.data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_every_family_has_a_debug_model() -> None:
    """No family is left out of this suite."""
    assert {card.family for card in BUILT_IN.values() if "debug" in card.name} == set(FAMILIES)


def test_same_seed_alone_or_in_a_batch(loaded: Loaded) -> None:
    """An item's output does not depend on its batch mates."""
    items = loaded.items(5)
    together = loaded.outputs(items)
    for index in (0, 4):
        (alone,) = loaded.outputs([items[index]])
        assert np.abs(pixels(alone) - pixels(together[index])).max() <= TOLERANCE


def test_seeds_and_prompts_make_a_difference(loaded: Loaded) -> None:
    """Neither seed nor prompt is ignored."""
    first, second = loaded.items(2)
    other_seed = Item(first.job_id, first.request.model_copy(update={"seed": 99}))
    one, two, three = loaded.outputs([first, second, other_seed])
    assert np.abs(pixels(one) - pixels(two)).max() > TOLERANCE
    assert np.abs(pixels(one) - pixels(three)).max() > TOLERANCE
    other_prompt = Item(first.job_id, first.request.model_copy(update={"prompt": "else"}))
    (four,) = loaded.outputs([other_prompt])
    assert not np.array_equal(pixels(one), pixels(four))


def test_what_was_asked_for(loaded: Loaded) -> None:
    """Type, size and facts are those of the request."""
    (item,) = loaded.items(1)
    sized = Item(item.job_id, item.request.model_copy(update={"size": "64x32"}))
    (output,) = loaded.outputs([sized])
    with Image.open(BytesIO(output.data)) as image:
        assert (image.format, image.size) == ("PNG", (64, 32))
        assert image.info["presswork:job"] == str(item.job_id)
        assert image.info["presswork:seed"] == "0"
    assert output.media_type == "image/png"
    facts = {name: output.facts[name] for name in ("seed", "width", "height", "model")}
    assert facts == {"seed": 0, "width": 64, "height": 32, "model": loaded.card.name}


def test_steps_are_reported(loaded: Loaded) -> None:
    """Progress is told between steps, to the end."""
    context = Steps()
    loaded.outputs(loaded.items(2), context)
    total = context.seen[-1][1]
    assert context.seen == [(done + 1, total) for done in range(total)]


def test_stops_between_steps(loaded: Loaded) -> None:
    """A stop is obeyed at the very step it was asked for, and the model is as good as before."""
    context = Steps(last=2)
    with pytest.raises(StopRequestedError):
        loaded.outputs(loaded.items(2), context)
    assert len(context.seen) == 2
    assert loaded.outputs(loaded.items(1))
