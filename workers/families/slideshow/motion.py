"""The Ken Burns effect: a slow pan or zoom over a still picture.

As in https://en.wikipedia.org/wiki/Ken_Burns_effect: for each moment a window into the picture,
whose edges may lie between two pixels, so that the motion is smooth.
"""

from jobs.kinds.values import derived_seed

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels."""

ZOOM = 1.15
"""How much closer a zoom comes, and how much closer than the whole picture a pan is."""
TRAVEL = 0.3
"""How far a pan goes at most, of the window's width or height: a panorama would fly by."""
MOTIONS = ("zoom-in", "zoom-out", "pan-left", "pan-right", "pan-up", "pan-down")


def chosen(motion: str, seed: int, number: int) -> str:
    """What ``auto`` means for a picture: drawn from the seed, never twice the same in a row."""
    if motion != "auto":
        return motion
    start = derived_seed(str(seed), "motion") % len(MOTIONS)
    # Steps of a divisor of six, plus one, would come back too soon; five goes through them all.
    stride = (1, 5)[derived_seed(str(seed), "order") % 2]
    return MOTIONS[(start + stride * number) % len(MOTIONS)]


def focus(seed: int, number: int) -> tuple[float, float]:
    """The point that a picture's motion is about, near its middle, as shares of its sides."""
    across, down = (derived_seed(str(seed), axis, str(number)) / 2**32 for axis in "xy")
    return 0.3 + 0.4 * across, 0.3 + 0.4 * down


def largest(picture: tuple[int, int], film: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the largest window of the film's shape in a picture."""
    width = min(picture[0], picture[1] * film[0] / film[1])
    return width, width * film[1] / film[0]


def window(
    motion: str,
    progress: float,
    picture: tuple[int, int],
    film: tuple[int, int],
    about: tuple[float, float],
) -> Box:
    """Where one looks at ``progress`` (0 to 1) of the motion; never out of the picture."""
    whole = largest(picture, film)
    scale = {
        "none": 1.0,
        "zoom-in": 1 + progress * (1 / ZOOM - 1),
        "zoom-out": 1 / ZOOM + progress * (1 - 1 / ZOOM),
    }.get(motion, 1 / ZOOM)
    back, forth = 0.5 - progress, progress - 0.5
    shifts = {
        "pan-left": (back, None),
        "pan-right": (forth, None),
        "pan-up": (None, back),
        "pan-down": (None, forth),
    }.get(motion, (None, None))
    edges = []
    for axis, shift in enumerate(shifts):
        side = whole[axis] * scale
        room = max(picture[axis] - side, 0.0)
        if shift is None:
            start = (picture[axis] - whole[axis]) / 2 + (whole[axis] - side) * about[axis]
        else:
            start = room / 2 + shift * min(room, TRAVEL * side)
        start = min(max(start, 0.0), room)
        edges.append((start, min(start + side, float(picture[axis]))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom
