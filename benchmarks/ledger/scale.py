"""How much the benchmark of the ledger measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How much is measured: a million jobs, or fewer to see that the benchmark still works."""

    jobs: int

    @property
    def full(self) -> bool:
        """Whether the figures mean anything."""
        return self.jobs >= 100_000

    @property
    def tenth(self) -> int:
        """100,000 of a million."""
        return self.jobs // 10

    @property
    def few(self) -> int:
        """10,000 of a million."""
        return max(self.jobs // 100, 32)

    @property
    def churned(self) -> int:
        """200,000 of a million."""
        return self.jobs // 5

    @property
    def rounds(self) -> int:
        """How often each side of a comparison is measured."""
        return 5 if self.full else 2

    @property
    def seconds(self) -> float:
        """How long a rate is observed."""
        return 4.0 if self.full else 0.3

    @property
    def samples(self) -> int:
        """How many latencies make a percentile."""
        return 1000 if self.full else 20
