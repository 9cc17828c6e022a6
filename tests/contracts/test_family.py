"""What every family of models promises the runner, shown on its debug model."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from jobs.kinds import KINDS, Kind
from storage.models import BUILT_IN, ModelCard
from storage.objects import MEDIA_SUFFIX
from tests.contracts import documented, media
from workers.family import Device, Family, Item, Output, StopRequestedError
from workers.files import files_of
from workers.inputs import sample
from workers.registry import FAMILIES

pytestmark = [
    # diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Its AutoencoderOobleck norms weights by the older of torch's two ways.
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is:FutureWarning"),
]

CARDS = [card for card in BUILT_IN.values() if card.source.startswith("builtin:")]
DOCUMENTED = documented.family()
ALL = [
    *((KINDS[card.kind], FAMILIES[card.family], card) for card in CARDS),
    DOCUMENTED,
]


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

    def __init__(
        self, family: Family[Any], card: ModelCard, cache: Path, kind: Kind | None = None
    ) -> None:
        self.kind = kind or KINDS[card.kind]
        self.family = family
        self.card = card
        self.model = family.load(self._files(cache), card, Device("cpu"))

    def _files(self, cache: Path) -> Path:
        scheme, _, place = self.card.source.partition(":")
        if scheme == "dir":
            return Path(place)
        if self.card.name in BUILT_IN:
            return files_of(self.card, cache)
        folder = cache / "contracts" / self.card.name
        if not folder.exists():
            folder.mkdir(parents=True)
            self.family.debug(folder)
        return folder

    def item(self, seed: int, **changes: Any) -> Item:
        """The kind's example with another seed, or with more changed."""
        fields = {**self.kind.example, "model": self.card.name, "seed": seed, **changes}
        request = self.kind.resolve(self.kind.Request.model_validate(fields), self.card)
        inputs: dict[str, list[Any]] = {}
        for field, reference in self.kind.references(request):
            inputs.setdefault(field.partition("[")[0], []).append(sample(reference.place))
        return Item(uuid4(), request, inputs)

    def items(self, count: int) -> list[Item]:
        """Requests that share a batch, each with words and a seed of its own."""
        return [self.item(n, **self.words(f" {n}")) for n in range(count)]

    def words(self, more: str) -> dict[str, str]:
        """What the example says, field by field, with some more words."""
        fields = self.kind.templates - self.kind.inputs.keys() & self.kind.example.keys()
        said = {name: self.kind.example.get(name) for name in fields}
        return {name: text + more for name, text in said.items() if isinstance(text, str)}

    def outputs(self, items: list[Item], context: Steps | None = None) -> list[list[Output]]:
        """The outputs of each item, in their order; in calls of the size that the model takes."""
        outputs: list[list[Output]] = []
        size = self.family.max_batch(self.model)
        for start in range(0, len(items), size):
            part = items[start : start + size]
            made = dict(self.family.generate(self.model, part, context or Steps()))
            assert sorted(made) == list(range(len(part)))
            for index in range(len(part)):
                result = made[index]
                assert isinstance(result, list), result
                assert result
                outputs.append(result)
        return outputs


@pytest.fixture(scope="module", params=ALL, ids=[card.name for *_, card in ALL])
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loaded]:
    """Each family with its debug model."""
    kind, family, card = request.param
    loaded = Loaded(family, card, tmp_path_factory.getbasetemp() / "cache", kind)
    yield loaded
    loaded.family.unload(loaded.model)


def difference(some: list[Output], others: list[Output]) -> float:
    """How far two jobs' outputs are apart at most, as a share of full scale."""
    assert [output.media_type for output in some] == [output.media_type for output in others]
    return max(media.difference(one, two) for one, two in zip(some, others, strict=True))


def test_every_family_has_a_debug_model() -> None:
    """No family is left out of this suite."""
    assert {card.family for card in CARDS} == set(FAMILIES)


def test_a_family_is_short() -> None:
    """Who reads the page on families adds one in under 80 lines."""
    assert documented.lines() < 80


def test_same_seed_alone_or_in_a_batch(loaded: Loaded) -> None:
    """An item's output does not depend on its batch mates."""
    items = loaded.items(3)
    together = loaded.outputs(items)
    for index in (0, 2):
        (alone,) = loaded.outputs([items[index]])
        assert difference(alone, together[index]) <= round(loaded.family.tolerance, 6)


def test_a_batch_is_what_it_says(loaded: Loaded) -> None:
    """A model takes as many items at once as it says, and gives each its own."""
    size = min(loaded.family.max_batch(loaded.model), 5)
    assert len(loaded.outputs(loaded.items(size))) == size


def test_seeds_and_words_make_a_difference(loaded: Loaded) -> None:
    """Neither the seed is ignored nor what the request says."""
    first = loaded.item(1)
    others = [loaded.item(2)] if "seed" in loaded.kind.example else []
    others += [loaded.item(1, **{name: text}) for name, text in loaded.words(" else").items()]
    made, *changed = loaded.outputs([first, *others])
    for output in changed:
        assert media.fingerprint(output) != media.fingerprint(made)


def test_what_was_asked_for(loaded: Loaded) -> None:
    """Outputs are of the kind's medium, open as what they say they are, and tell their facts."""
    item = loaded.item(1)
    (outputs,) = loaded.outputs([item])
    for output in outputs:
        assert output.media_type in MEDIA_SUFFIX
        assert media.medium(output) == loaded.kind.makes
        facts = media.facts(output)
        assert {name: output.facts[name] for name in facts} == facts


def test_steps_are_reported(loaded: Loaded) -> None:
    """Progress is told between steps, to the end."""
    context = Steps()
    loaded.outputs(loaded.items(1), context)
    total = context.seen[-1][1]
    assert context.seen[-1] == (total, total)
    assert [done for done, _ in context.seen] == sorted({done for done, _ in context.seen})


def test_stops_between_steps(loaded: Loaded) -> None:
    """A stop is obeyed at the very step it was asked for, and the model is as good as before."""
    item = loaded.item(1)
    (before,) = loaded.outputs([item])
    context = Steps(last=1)
    with pytest.raises(StopRequestedError):
        loaded.outputs([item], context)
    assert context.seen[-1][0] == 1
    (after,) = loaded.outputs([item])
    assert media.fingerprint(after) == media.fingerprint(before)


def test_memory_returns_after_unload(loaded: Loaded, tmp_path_factory: Any) -> None:
    """What was loaded is gone after unload: no tensor of it is left."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    gc.freeze()  # what was there before is neither searched nor counted
    try:
        again = Loaded(loaded.family, loaded.card, cache, loaded.kind)
        again.outputs([again.item(1)])
        assert bool(_tensors()) is (loaded.card.name != "slideshow")  # which has no weights
        again.family.unload(again.model)
        del again
        gc.collect()
        assert _tensors() == 0
    finally:
        gc.unfreeze()


def _tensors() -> int:
    """Bytes in tensors that anybody holds: on the CPU there is no allocator to ask."""
    storages: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):  # not isinstance, which asks lazy modules
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
