"""How much is measured, and on what."""

from dataclasses import dataclass
from functools import cached_property

from jobs.devices import Slot, parse_devices


@dataclass(frozen=True)
class Scale:
    """256 images, or fewer to see that the benchmark still works."""

    images: int
    devices: str = "cpu"
    compiled: bool = True

    @cached_property
    def slots(self) -> list[Slot]:
        """A process each, of the worker and of whatever it is compared with."""
        return parse_devices(self.devices)

    @property
    def one(self) -> str:
        """The device where what one process does is measured."""
        return "cpu" if self.devices.startswith("cpu") else self.devices.partition(",")[0]

    @property
    def full(self) -> bool:
        """Whether the figures mean anything."""
        return self.images >= 256 and self.compiled

    @property
    def rounds(self) -> int:
        """How often each side of a comparison is measured."""
        return 3 if self.full else 1

    @property
    def batch(self) -> int:
        """The most pictures in a call."""
        return 16 if self.images >= 64 else 4

    @property
    def slow(self) -> int:
        """How many pictures show the rate of what makes one or two a second."""
        return max(self.images // 8, 4)

    @property
    def jobs(self) -> int:
        """2,000 of 256 images: the jobs of a long life."""
        return max(self.images * 2000 // 256, 60)
