"""In which calls a batch is made: few sizes, each chosen by what was measured of it."""

from collections.abc import Mapping

GAIN = 0.05
"""A larger call must make more items per second by this share, or the smaller one is as good: it
answers sooner, needs less memory, and has shorter tails."""

Rates = Mapping[int, float]
"""Items per second, by the size of the call."""


def buckets(most: int, *, coarse: bool = False) -> list[int]:
    """The sizes that calls have: powers of two up to ``most``, and that itself.

    ``coarse``: every second of them, for where each size is compiled and so has its price.
    """
    sizes = [2**power for power in range(most.bit_length())]
    sizes = sizes if sizes[-1] == most else [*sizes, most]
    return sorted({1, *sizes[::-2]}) if coarse else sizes


def best_size(rates: Rates, short_s: float = 0.0) -> int:
    """The smallest size that is as good as any, give or take `GAIN`.

    But one whose call takes less than ``short_s`` gives way to a larger one that is as good.
    """
    best = max(rates.values())
    as_good = sorted(size for size, rate in rates.items() if rate >= best * (1 - GAIN))
    return next((size for size in as_good if size / rates[size] >= short_s), as_good[-1])


def call_size(count: int, most: int, rates: Rates, *, pads: bool, coarse: bool = False) -> int:
    """How large the next call shall be where ``count`` items are left to be made.

    With ``pads`` it is one of the `buckets`, perhaps larger than ``count``: of all ways to make
    them, the one that takes the least time by ``rates``. So 9 of 16 are padded to 16 where such a
    call takes little longer than one of 8, and made as 8 and 1 where it takes twice as long.
    """
    if not pads:
        return min(count, most)
    if count >= (most if coarse else 2 * most):
        return most  # all but the last of many calls are alike; it is compiled first of all
    sizes = buckets(most, coarse=coarse)
    # Of ways that take as long, the one with the fewest calls, then the one with the least padding.
    tie_s = 1e-6 * seconds(most, rates)
    cost_s = {size: seconds(size, rates) + tie_s * (1 + size / 1000) for size in sizes}
    # What 0, 1, 2... items cost at least, and the size of the first of their calls: the largest,
    # so that what is padded is the tail.
    best = [(0.0, 0)]
    for left in range(1, count + 1):
        ways = [(cost_s[size] + best[max(left - size, 0)][0], size) for size in sizes]
        least_s = min(ways)[0]
        best.append((least_s, max(size for way_s, size in ways if way_s <= least_s + tie_s / 1e4)))
    return best[count][1]


def seconds(size: int, rates: Rates) -> float:
    """How long a call takes: as measured, or on the line through what was measured beside it.

    Of no rates at all it is said in units of an item, to which each call adds one.
    """
    if size in rates:
        return size / rates[size]
    known = sorted(rates)
    if not known:
        return 1.0 + size
    took = {each: each / rates[each] for each in known}
    if len(known) == 1:
        (one,) = known
        return took[one] * (1 + size) / (1 + one)
    above = next((i for i, each in enumerate(known) if each > size), len(known) - 1)
    left, right = known[max(above - 1, 0)], known[max(above, 1)]
    slope = (took[right] - took[left]) / (right - left)
    line = took[left] + slope * (size - left)
    if size < known[0]:
        # Neither faster for each item than the smallest that was measured, nor slower in all.
        return min(max(line, took[known[0]] * size / known[0]), took[known[0]])
    return line if size < known[-1] else max(line, took[known[-1]])
