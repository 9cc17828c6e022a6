"""Whether a training gives its pictures out again: the nearest of them to each of its samples."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from jobs.datasets.duplicates import perceptual_hash
from jobs.trainings import sheets
from jobs.trainings.architectures import GanArchitecture, VaeArchitecture
from jobs.trainings.sheets import Row
from workers.training import draws
from workers.training.data import PictureItem
from workers.training.features import square
from workers.training.loop import Saying
from workers.training.trainer import Ground, Numbers, Sample, Training

NEAR = 0.5
"""Up to which `Match.nearness` a sample may be a copy.

Measured on compositions of 206 drawings, 12 to 1000 of them as the training pictures: of new ones
at most 3 % are that near with hashes that near (those few hardly differ from one), and of copies
saved as JPEG, blurred (radius 2) or noisy (20 of 255) at least 99 %.
"""
NEAR_BITS = 10
SHOWN = 12
"""Pairs on the sheet."""
SIDE_PX = 16
"""Of pictures that are compared: what is finer differs in copies as well."""
HASHED_PX = 256
_SHOWING_OTHERS = (GanArchitecture, VaeArchitecture)


@dataclass(frozen=True)
class Match:
    """A sample, and the training picture that is nearest to it, as numbers from 0 on.

    ``nearness`` is the distance of their pixels, where 1 is the median distance of a training
    picture from the nearest other one. ``bits`` is in how many of 64 their perceptual hashes
    differ.
    """

    sample: int
    picture: int
    nearness: float
    bits: int

    @property
    def is_copy(self) -> bool:
        """Whether it is much nearer than training pictures are to each other, by both."""
        return self.nearness <= NEAR and self.bits <= NEAR_BITS


@dataclass(frozen=True)
class Report:
    """The matches of all samples, the nearest first, and a sheet of them beside each other."""

    matches: Sequence[Match]
    sheet: Image.Image

    def numbers(self) -> Numbers:
        """For an event or facts; ``memorised`` of ``memorised_of`` samples are copies."""
        return {
            "memorised": sum(match.is_copy for match in self.matches),
            "memorised_of": len(self.matches),
            "nearest": self.matches[0].nearness,
        }


@dataclass(frozen=True)
class _Seen:
    """Pictures as they are compared: pixels (N, D), and hashes."""

    pixels: NDArray[np.float32]
    hashes: Sequence[int]


def check(
    samples: Sequence[Image.Image],
    pictures: Sequence[PictureItem],
    look: Callable[[], None] = lambda: None,
) -> Report:
    """Find the nearest of the training's ``pictures`` to each of its ``samples``.

    Pixels are compared, and their distance is judged by those among the training pictures, after
    Carlini et al. 2023 (arXiv:2301.13188): pictures of one product are near each other, and a new
    one of it is no copy for that. Mirrored pictures are compared as well. ``look`` is called now
    and then and may raise.

    Raises:
        ValueError: there is no sample, or there are fewer than two pictures.
    """
    if not samples or len(pictures) < 2:  # noqa: PLR2004
        raise ValueError("one sample and two training pictures are needed at least")
    known = _seen((item.image() for item in pictures), look)
    mirrored = _seen((ImageOps.mirror(item.image()) for item in pictures), look)
    made = _seen(samples, look)

    def distances(one: NDArray[np.float32]) -> NDArray[np.float32]:
        squared = [((seen.pixels - one) ** 2).sum(axis=1) for seen in (known, mirrored)]
        nearest: NDArray[np.float32] = np.sqrt(np.minimum(*squared))
        return nearest

    among = []
    for place, one in enumerate(known.pixels):
        look()
        among.append(float(np.delete(distances(one), place).min()))
    apart = [distance for distance in among if distance > 0]  # a dataset may hold one twice
    unit = float(np.median(apart)) if apart else 1.0
    matches = []
    for number, one in enumerate(made.pixels):
        found = distances(one)
        place = int(found.argmin())
        bits = min(
            (made.hashes[number] ^ seen.hashes[place]).bit_count() for seen in (known, mirrored)
        )
        matches.append(Match(number, place, float(found[place]) / unit, bits))
    matches.sort(key=lambda match: match.nearness)
    return Report(matches, _sheet(matches[:SHOWN], samples, pictures))


def at_end(training: Training, ground: Ground, saying: Saying) -> Numbers:
    """Compare the samples of a training that is done with its pictures, and tell what was found.

    An event ``evaluated`` has the `Report`'s numbers, which are given for the artifact's facts as
    well, and an event ``sample`` its sheet. Nothing where a training has no pictures or no samples,
    composes its pictures anew at each step, or shows what is no single picture of its own: a GAN
    shows sheets, and a VAE copies beside what they are of.
    """
    architecture = getattr(ground.request, "architecture", None)
    if isinstance(architecture, _SHOWING_OTHERS) or getattr(architecture, "compose", None):
        return {}
    if len(ground.data.pictures) < 2:  # noqa: PLR2004
        return {}
    draws.begin(ground.seed, "samples")
    samples = [
        sample.content
        for sample in training.samples(training.steps)
        if isinstance(sample.content, Image.Image)
    ]
    if not samples:
        return {}
    report = check(samples, ground.data.pictures, ground.look)
    saying.note("evaluated", {"step": training.steps, **report.numbers()})
    saying.show(training.steps, Sample("the nearest training pictures", report.sheet))
    return report.numbers()


def _seen(pictures: Iterable[Image.Image], look: Callable[[], None]) -> _Seen:
    pixels, hashes = [], []
    for picture in pictures:
        look()
        pixels.append(np.asarray(square(picture, SIDE_PX), dtype=np.float32).ravel())
        hashes.append(perceptual_hash(square(picture, HASHED_PX)))
    return _Seen(np.stack(pixels), hashes)


def _sheet(
    matches: Sequence[Match], samples: Sequence[Image.Image], pictures: Sequence[PictureItem]
) -> Image.Image:
    rows = [
        Row(
            f"{match.nearness:.2f}, {match.bits} bits" + (": a copy" if match.is_copy else ""),
            [samples[match.sample], pictures[match.picture].image()],
        )
        for match in matches
    ]
    return sheets.grid(["sample", "nearest of training"], rows)
