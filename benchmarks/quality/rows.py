"""How far pictures are from the exact ones: a row of the table."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """How far one way to make pictures is from the exact one, in levels of 255, and how quick."""

    model: str
    way: str
    mean: float
    p999: float
    psnr_db: float | None
    """None: the pictures are the same."""
    work: float
    """Denoiser evaluations as a share of the exact way's."""
    speed: float | None = None
    """Of medians, alternated; None: not timed."""


def compared(model: str, way: str, made: Pictures, exact: Pictures, work: float) -> Row:
    """The row of pictures with values from 0 to 1."""
    difference = np.abs(made - exact)
    error = float(np.square(difference).mean())
    return Row(
        model,
        way,
        mean=float(difference.mean() * 255),
        p999=float(np.percentile(difference, 99.9) * 255),
        psnr_db=-10 * math.log10(error) if error else None,
        work=work,
    )


HEAD = """\
| model | way | mean | p99.9 | PSNR | evaluations | speed |
|---|---|---|---|---|---|---|"""


def line(row: Row) -> str:
    """The row in Markdown."""
    psnr = "same" if row.psnr_db is None else f"{row.psnr_db:.1f} dB"
    speed = "" if row.speed is None else f"{row.speed:.2f}"
    return (
        f"| {row.model} | {row.way} | {row.mean:.2f} | {row.p999:.1f} | {psnr} | "
        f"{row.work:.0%} | {speed} |"
    )
