"""One film after another: pictures in motion, faded into each other, a headline and a voice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import PIL
from PIL import Image

from jobs.kinds.sizes import parse_size
from jobs.kinds.slideshow import SlideshowRequest
from workers.families.slideshow import fonts, motion
from workers.families.slideshow.headline import Headline, HeadlineError, lay_out
from workers.family import Context, Input, Item, JobError, Output
from workers.film import Frame, Sound, decode_sound, encode_film
from workers.pictures import opened

FRAMES_A_STEP = 8
"""How many frames are made between two looks at whether to stop."""
MAX_SECONDS = 600
SHORTEST_S = 0.2
"""How long each picture must be seen."""


def generate(
    items: Sequence[Item], context: Context
) -> Iterator[tuple[int, list[Output] | JobError]]:
    """The films of ``items``, of which none depends on another."""
    for index, item in enumerate(items):
        try:
            yield index, [_film(item, context)]
        except _UnfitError as error:
            yield index, JobError(error.code, error.message, retry=False)


class _UnfitError(Exception):
    """An input is at fault."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def _film(item: Item, context: Context) -> Output:
    request = item.request
    assert isinstance(request, SlideshowRequest)
    assert request.size is not None
    size = parse_size(request.size)
    pictures = item.inputs["pictures"]
    sound = _voice(item.inputs.get("voice", ()))
    if sound:
        duration_s = sound.duration_s
    else:
        assert request.seconds is not None
        duration_s = request.seconds * len(pictures)
    if duration_s > MAX_SECONDS:
        message = f"the voice is {duration_s:.0f} s long, a film is {MAX_SECONDS} s at most"
        raise _UnfitError("voice_too_long", message)
    if duration_s < SHORTEST_S * len(pictures):
        message = (
            f"voice: its {duration_s:.1f} s are too short to show {len(pictures)} pictures; "
            "give fewer pictures or a longer voice"
        )
        raise _UnfitError("voice_too_short", message)
    headline = _headline(item, size)
    scenes = _Scenes(
        pictures, size, request, item.seed, frames=max(round(duration_s * request.fps), 1)
    )
    data = encode_film(
        _frames(scenes, headline, context),
        size=size,
        fps=request.fps,
        job_id=item.job_id,
        seed=item.seed,
        sound=sound,
    )
    facts: dict[str, Any] = {
        "width": size[0],
        "height": size[1],
        "fps": request.fps,
        "frames": scenes.frames,
        "duration_s": round(scenes.frames / request.fps, 3),
        "pictures": len(pictures),
        "av": av.__version__,
        "pillow": PIL.__version__,
    }
    if headline:
        facts["font"] = headline.font
        if headline.dropped:
            facts["headline_characters_dropped"] = headline.dropped
    return Output(data, "video/mp4", facts)


def _voice(inputs: Sequence[Input]) -> Sound | None:
    if not inputs:
        return None
    try:
        return decode_sound(inputs[0].data)
    except ValueError as error:
        raise _UnfitError("bad_sound", f"voice: {error}") from error


def _headline(item: Item, size: tuple[int, int]) -> Headline | None:
    request = item.request
    assert isinstance(request, SlideshowRequest)
    text = request.headline
    if given := item.inputs.get("headline_from"):
        text = given[0].data.decode("utf-8", errors="replace")
    field = "headline_from" if given else "headline"
    try:
        headline = lay_out(text, size, position=request.position, colour=request.colour)
    except fonts.NoFontError as error:
        raise _UnfitError("no_font", f"{field}: {error}") from error
    except HeadlineError as error:
        raise _UnfitError("headline_too_long", f"{field}: {error}") from error
    if headline is None and (given or text.strip()):
        # A film without the headline that was asked for must not pass for a finished one.
        raise _UnfitError("no_headline", f"{field}: there is nothing in it that can be drawn")
    return headline


def _frames(scenes: "_Scenes", headline: Headline | None, context: Context) -> Iterator[Frame]:
    steps = -(-scenes.frames // FRAMES_A_STEP)
    for number in range(scenes.frames):
        picture = scenes.at(number)
        if headline:
            headline.draw_on(picture)
        yield np.asarray(picture)
        if (number + 1) % FRAMES_A_STEP == 0 or number + 1 == scenes.frames:
            context.step(-(-(number + 1) // FRAMES_A_STEP), steps)


@dataclass
class _Scene:
    """A picture at about the size that it is needed in, and how it moves."""

    picture: Image.Image
    motion: str
    about: tuple[float, float]


class _Scenes:
    """The pictures over the time of the film, each for the same share of it.

    At most two are open at a time.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        size: tuple[int, int],
        request: SlideshowRequest,
        seed: int,
        *,
        frames: int,
    ) -> None:
        self.frames = frames
        self._inputs = inputs
        self._size = size
        self._motion = request.motion
        self._seed = seed
        self._share = frames / len(inputs)
        self._fade = min(request.crossfade * request.fps, self._share / 2)
        self._open: dict[int, _Scene] = {}

    def at(self, number: int) -> Image.Image:
        """The frame of that number, RGB, without the headline."""
        now = number + 0.5
        scene = min(int(now / self._share), len(self._inputs) - 1)
        picture = self._view(scene, now)
        for other, start in ((scene - 1, scene), (scene + 1, scene + 1)):
            since = now - (start * self._share - self._fade / 2)
            if 0 <= other < len(self._inputs) and 0 < since < self._fade:
                part = since / self._fade
                if other < scene:
                    return Image.blend(self._view(other, now), picture, part)
                return Image.blend(picture, self._view(other, now), part)
        return picture

    def _view(self, number: int, now: float) -> Image.Image:
        begin = max(number * self._share - self._fade / 2, 0)
        end = min((number + 1) * self._share + self._fade / 2, self.frames)
        scene = self._scene(number)
        box = motion.window(
            scene.motion,
            min(max((now - begin) / (end - begin), 0), 1),
            scene.picture.size,
            self._size,
            scene.about,
        )
        return scene.picture.resize(self._size, Image.Resampling.BICUBIC, box=box)

    def _scene(self, number: int) -> _Scene:
        if number not in self._open:
            for gone in [other for other in self._open if other < number - 1]:
                del self._open[gone]
            self._open[number] = _Scene(
                _prepared(self._inputs[number], self._size),
                motion.chosen(self._motion, self._seed, number),
                motion.focus(self._seed, number),
            )
        return self._open[number]


def _prepared(given: Input, size: tuple[int, int]) -> Image.Image:
    """The picture, made smaller where it has more pixels than the closest look needs."""
    picture = opened(given)
    width, _ = motion.largest(picture.size, size)
    scale = size[0] * motion.ZOOM / width
    if scale >= 1:
        return picture
    smaller = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(smaller, Image.Resampling.LANCZOS, reducing_gap=3)
