"""How many jobs a call may have, by sort of device and batch key: as measured, and as limited.

What was measured says how many are best: the rate of each size that was tried. A limit is what
running out of memory has taught. It is good for a day: what took the memory then may be gone, and
a batch that does not fit costs little more than the attempt.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Engine, text

GOOD_FOR_S = 24 * 3600
MEASURED_FOR_S = 30 * 24 * 3600
"""How long measured rates are believed: drivers, clocks and neighbours change."""


@dataclass(frozen=True)
class Measured:
    """The jobs per second of each size of call that was tried, and with which ``torch``.

    They ran as they are, not compiled. ``peak_bytes`` is what the best size needs of the device's
    memory at most, the model included, where that is known.
    """

    rates: Mapping[int, float]
    peak_bytes: int | None
    torch: str


@dataclass(frozen=True)
class Known:
    """What is known of a batch key on a sort of device; None: nothing, or nothing any more."""

    limit: int | None
    measured: Measured | None


def read(engine: Engine, *, device: str, batch_key: str) -> Known:
    """What is known for calls of this key on this sort of device."""
    with engine.begin() as connection:
        row = connection.execute(
            text(
                """
                SELECT CASE WHEN updated_at
                                > clock_timestamp() - make_interval(secs => :good_for_s)
                            THEN size END AS size,
                       CASE WHEN measured_at
                                > clock_timestamp() - make_interval(secs => :measured_for_s)
                            THEN rates END AS rates,
                       peak_bytes, torch
                FROM batch_sizes WHERE device = :device AND batch_key = :batch_key
                """
            ),
            {
                "device": device,
                "batch_key": batch_key,
                "good_for_s": GOOD_FOR_S,
                "measured_for_s": MEASURED_FOR_S,
            },
        ).first()
    if row is None:
        return Known(None, None)
    measured = None
    if row.rates:
        rates = {int(size): float(rate) for size, rate in row.rates.items()}
        measured = Measured(rates, row.peak_bytes, row.torch)
    return Known(row.size, measured)


def lower(engine: Engine, *, device: str, batch_key: str, size: int) -> None:
    """From now on calls have ``size`` jobs at most, or fewer where that is known already."""
    with engine.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO batch_sizes (device, batch_key, size)
                VALUES (:device, :batch_key, :size)
                ON CONFLICT (device, batch_key) DO UPDATE SET
                    size = CASE WHEN batch_sizes.updated_at
                                     > clock_timestamp() - make_interval(secs => :good_for_s)
                                THEN LEAST(batch_sizes.size, excluded.size)
                                ELSE excluded.size END,
                    updated_at = clock_timestamp()
                """
            ),
            {
                "device": device,
                "batch_key": batch_key,
                "size": size,
                "good_for_s": GOOD_FOR_S,
            },
        )


def keep(engine: Engine, *, device: str, batch_key: str, measured: Measured) -> None:
    """Keep what was measured, in place of what was measured before; a limit stays as it is."""
    with engine.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO batch_sizes
                    (device, batch_key, rates, peak_bytes, torch, measured_at)
                VALUES (:device, :batch_key, CAST(:rates AS jsonb), :peak_bytes, :torch,
                        clock_timestamp())
                ON CONFLICT (device, batch_key) DO UPDATE SET
                    rates = excluded.rates, peak_bytes = excluded.peak_bytes,
                    torch = excluded.torch, measured_at = excluded.measured_at
                """
            ),
            {
                "device": device,
                "batch_key": batch_key,
                "rates": json.dumps({str(size): rate for size, rate in measured.rates.items()}),
                "peak_bytes": measured.peak_bytes,
                "torch": measured.torch,
            },
        )
