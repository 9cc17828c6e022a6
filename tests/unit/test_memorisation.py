"""Whether a training gives its pictures out again."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from jobs.trainings.requests import FinetuneRequest, TrainRequest
from tests.unit.test_frechet import pictures
from workers.family import Device
from workers.training import memorisation
from workers.training.data import Data, PictureItem
from workers.training.trainer import Ground, Sample


def items(shown: list[Image.Image]) -> list[PictureItem]:
    """As a dataset has them."""
    found = []
    for number, picture in enumerate(shown):
        file = io.BytesIO()
        picture.save(file, "PNG")
        found.append(PictureItem(f"{number}.png", file.getvalue(), "a shape"))
    return found


def worn(picture: Image.Image) -> Image.Image:
    """As a model might give it out again: a little larger, other compressed, mirrored."""
    file = io.BytesIO()
    ImageOps.mirror(picture).resize((80, 80)).save(file, "JPEG", quality=70)
    return Image.open(file)


def test_copies_are_told_from_new_pictures() -> None:
    """Worn copies of training pictures are found, and others of the same sort are none."""
    learnt, new = pictures(0, 24), pictures(1, 12)
    report = memorisation.check([*new, worn(learnt[3]), learnt[7]], items(learnt))
    copies = {(match.sample, match.picture) for match in report.matches if match.is_copy}
    assert copies == {(12, 3), (13, 7)}
    assert report.numbers() == {"memorised": 2, "memorised_of": 14, "nearest": 0}
    assert [match.nearness for match in report.matches] == sorted(
        match.nearness for match in report.matches
    )


def test_what_counts_as_near_depends_on_the_training_pictures() -> None:
    """Of pictures that are all alike, another one as unlike as they are is no copy."""
    rng = np.random.default_rng(0)
    base = np.asarray(pictures(3, 1)[0]).astype(float)

    def another() -> Image.Image:
        shift = tuple(rng.integers(-8, 9, 2))
        shifted = np.roll(base, shift, axis=(0, 1)) + rng.normal(0, 30, 3)
        return Image.fromarray(shifted.clip(0, 255).astype(np.uint8))

    learnt = [another() for _ in range(24)]
    report = memorisation.check([another() for _ in range(12)], items(learnt))
    assert report.numbers()["memorised"] == 0
    assert memorisation.check(learnt[:3], items(learnt)).numbers()["memorised"] == 3


def test_a_dataset_of_one_picture_again_and_again() -> None:
    """Where duplicates were allowed, what is like them is a copy all the same."""
    same = pictures(0, 1) * 3
    assert memorisation.check(same[:1], items(same)).numbers()["memorised"] == 1


def test_there_must_be_something_to_compare() -> None:
    """No sample, or a single picture, has no nearest one to speak of."""
    one = pictures(0, 1)
    with pytest.raises(ValueError, match="two training pictures"):
        memorisation.check(one, items(one))


@dataclass
class Shows:
    """A training that is over and shows pictures, or texts."""

    shown: list[Image.Image | str]
    steps: int = 5
    learners: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    watched: str | None = None

    def samples(self, step: int) -> Iterator[Sample]:
        """See `Training.samples`."""
        assert step == self.steps
        yield from (Sample("a shape", one) for one in self.shown)


@dataclass
class Heard:
    """What was said."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    shown: list[Sample] = field(default_factory=list)

    def note(self, name: str, data: dict[str, Any]) -> None:
        """See `Saying.note`."""
        self.events.append((name, data))

    def show(self, step: int, sample: Sample) -> None:
        """See `Saying.show`."""
        assert step == 5
        self.shown.append(sample)


def ground(**architecture: Any) -> Ground:
    """Of a training on pictures: an adapter's, or with an architecture of a model's."""
    data = Data("0" * 64, None, pictures=items(pictures(0, 8)))
    named: dict[str, Any] = {"name": "mine", "dataset": "mugs", "steps": 5}
    request = (
        TrainRequest(architecture=architecture, **named)
        if architecture
        else FinetuneRequest(model="debug-diffusion", **named)
    )
    return Ground(request, data, Device("cpu"), seed=1)


def test_it_is_told_at_the_end_of_a_training() -> None:
    """As an event with the numbers, and one with the pairs as a picture."""
    heard = Heard()
    numbers = memorisation.at_end(Shows([*pictures(0, 1), "words"]), ground(), heard)  # type: ignore[arg-type]
    assert numbers == {"memorised": 1, "memorised_of": 1, "nearest": 0}
    assert heard.events == [("evaluated", {"step": 5, **numbers})]
    (sheet,) = heard.shown
    assert isinstance(sheet.content, Image.Image)


def test_where_there_is_nothing_to_compare_nothing_is_told() -> None:
    """Without samples in pictures, or pictures that are learnt as they are, or samples of one."""
    heard = Heard()
    assert memorisation.at_end(Shows(["words"]), ground(), heard) == {}  # type: ignore[arg-type]
    for architecture in (
        {"type": "text-to-image", "compose": {}},
        {"type": "gan"},
        {"type": "vae"},
    ):
        shows = Shows(list(pictures(0, 1)))
        assert memorisation.at_end(shows, ground(**architecture), heard) == {}  # type: ignore[arg-type]
    assert not heard.events
