"""Calls of few sizes: tails that are filled up, sizes that are measured and kept in SQL."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import torch
from sqlalchemy import Engine

from jobs.kinds import KINDS
from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job
from storage import batch_sizes
from storage.batch_sizes import Measured
from storage.models import BUILT_IN
from tests.contracts import media
from tests.contracts.test_family import Steps
from tests.integration import tinting
from tests.integration.batches import device_sort
from tests.integration.ledger_cases import execute, rows, value
from tests.integration.tinting import Tint, TintRequest
from workers import room
from workers.compiled import Asks, Compiler
from workers.families.diffusion import Diffusion
from workers.family import Context, Device, Item, JobError, Output
from workers.generation import BatchContext, make
from workers.pulse import Held
from workers.registry import FAMILIES
from workers.resident import Resident
from workers.room import Room
from workers.runner import Runner

KEY = "k"
SATURATED = 4
"""Items that keep the device busy: fewer take as long as these."""


class Filled(Tint):
    """Answers with each item's seed; takes a second a call, and more above `SATURATED`."""

    pads = True

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[int] = []
        self.fail: Callable[[Sequence[Item]], None] = lambda _: None

    def max_batch(self, model: str) -> int:  # noqa: ARG002
        """Twice as many as are of use."""
        return 2 * SATURATED

    def generate(
        self,
        model: str,  # noqa: ARG002
        items: Sequence[Item],
        context: Context,  # noqa: ARG002
    ) -> Iterator[tuple[int, list[Output]]]:
        """Also refuse what a fuller call would have refused, which padding never does."""
        self.calls.append(len(items))
        self.fail(items)
        self.now_s += max(len(items) / SATURATED, 1)
        for index, item in enumerate(items):
            yield index, [Output(str(item.seed).encode(), "application/json", {})]


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> Filled:
    """The family, by whose clock calls are measured."""
    torch.set_num_threads(1)
    family = Filled()
    monkeypatch.setattr(room, "time", SimpleNamespace(perf_counter=lambda: family.now_s))
    return family


@pytest.fixture
def registered(
    engine: Engine, filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Filled:
    """The family, with a model that jobs can name."""
    tinting.add_tint(engine, tmp_path, monkeypatch)
    monkeypatch.setitem(FAMILIES, "tint", filled)
    return filled


def at(engine: Engine, batch_key: str = KEY) -> Room:
    """A new worker, turned to a key."""
    made = Room(engine, Device("cpu"), 64)
    made.turn_to(batch_key)
    return made


def items(count: int) -> list[Item]:
    """Jobs with a seed each."""
    return [Item(uuid4(), TintRequest(image="sample:mug.png", seed=n)) for n in range(count)]


def made_of(
    family: Any, given: Sequence[Item], where: Room, held: Held | None = None
) -> list[tuple[Item, list[Output] | JobError]]:
    """What became of the items."""
    resident = Resident(BUILT_IN["debug-diffusion"], family, "model")
    return list(make(resident, given, BatchContext(held or Held(uuid4()), bool), where))


def measured(**changes: Any) -> Measured:
    """That eight at once are best, and four take as long."""
    fields = {
        "rates": {4: 4.0, 8: 8.0},
        "peak_bytes": 7,
        "torch": str(torch.__version__),
    }
    return Measured(**{**fields, **changes})


def keep(engine: Engine, known: Measured) -> None:
    """Have it known to this sort of device."""
    batch_sizes.keep(engine, device=device_sort(), batch_key=KEY, measured=known)


def test_sizes_are_measured_once(engine: Engine, filled: Filled) -> None:
    """Calls grow on real jobs until that gains nothing; a new worker makes the best at once."""
    first = at(engine)
    claims = []
    while (size := first.claim_size(KEY)) and sum(filled.calls) < 42:
        claims.append(size)
        made_of(filled, items(size), first)
    assert claims == [6, 12, 24]
    assert filled.calls == [*[2] * 3, *[4] * 3, *[8] * 3]
    known = batch_sizes.read(engine, device=device_sort(), batch_key=KEY).measured
    assert known is not None
    assert known.rates == {2: 2.0, 4: 4.0, 8: 4.0}
    assert known.torch == torch.__version__
    filled.calls.clear()
    for worker in (first, at(engine)):
        assert worker.claim_size(KEY) == SATURATED
        assert len(made_of(filled, items(11), worker)) == 11
    assert filled.calls == [4, 4, 4] * 2
    assert at(engine, "other").claim_size("other") == 6


def test_a_claim_is_worth_its_transactions(engine: Engine, filled: Filled) -> None:
    """Of short calls it has several, but never more jobs than the setting allows."""
    keep(engine, measured(rates={8: 40.0}))  # 0.2 s
    assert at(engine).claim_size(KEY) == 40
    assert Room(engine, Device("cpu"), 16).claim_size(KEY) == 16
    assert len(made_of(filled, items(20), at(engine))) == 20


def test_what_is_compiled_of_the_calls(
    engine: Engine, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of those that are tried; the best size at its next call, others if they are many."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # which a compiler sets
    compiler = Compiler()
    try:
        where = Room(engine, Device("cpu", compiler=compiler), 64)
        where.turn_to(KEY)
        asked: list[Asks] = []
        filled.fail = lambda _: asked.append(compiler.asks)
        made_of(filled, items(42), where)
        assert filled.calls == [*[2] * 3, *[4] * 3, *[8] * 3]
        assert asked == ["never"] * 9
        made_of(filled, items(9), where)
        assert filled.calls[9:] == [8, 1]
        assert asked[9:] == ["at once", "often"]
    finally:
        compiler.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE batch_sizes SET measured_at = measured_at - interval '31 days'",
        "UPDATE batch_sizes SET torch = '1.0'",
    ],
)
def test_what_was_measured_long_ago_or_otherwise(engine: Engine, change: str) -> None:
    """It is measured again after a month, or with another torch."""
    keep(engine, measured())
    assert at(engine).claim_size(KEY) == 8
    execute(engine, change)
    assert at(engine).claim_size(KEY) == 6


def test_a_limit_and_rates_are_kept_apart(engine: Engine) -> None:
    """Neither forgets the other, whichever is known first."""
    for key in ("a", "b"):
        if key == "b":
            batch_sizes.keep(engine, device="d", batch_key=key, measured=measured())
        batch_sizes.lower(engine, device="d", batch_key=key, size=4)
        batch_sizes.keep(engine, device="d", batch_key=key, measured=measured())
        known = batch_sizes.read(engine, device="d", batch_key=key)
        assert known == batch_sizes.Known(4, measured())
    execute(engine, "UPDATE batch_sizes SET updated_at = updated_at - interval '25 hours'")
    assert batch_sizes.read(engine, device="d", batch_key="a").limit is None


def test_padding_is_dropped(engine: Engine, filled: Filled) -> None:
    """Five jobs are made in a call of eight, and five outputs come of it, each its own."""
    keep(engine, measured())
    given = items(5)
    made = made_of(filled, given, at(engine))
    assert filled.calls == [8]
    assert [item for item, _ in made] == given
    assert [out[0].data for _, out in made if isinstance(out, list)] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]


def test_padding_harms_nobody(engine: Engine, filled: Filled) -> None:
    """Where a call that was filled up fails, each job is tried by itself, and fails for itself."""
    keep(engine, measured())

    def fail(given: Sequence[Item]) -> None:
        if any(item.seed == 2 for item in given):
            raise ValueError("two")

    filled.fail = fail
    made = made_of(filled, items(5), at(engine))
    assert filled.calls[0] == 8
    errors = {item.seed: out.code for item, out in made if isinstance(out, JobError)}
    assert errors == {2: "generation_failed"}
    assert len(made) == 5


def test_cancelled_jobs_are_no_padding(engine: Engine, filled: Filled) -> None:
    """They are left out before the size of the call is chosen."""
    keep(engine, measured())
    given = items(8)
    held = Held(uuid4())
    held.cancelled = frozenset(item.job_id for item in given[:5])
    made = made_of(filled, given, at(engine), held)
    assert filled.calls == [4]
    assert [item for item, _ in made] == given[5:]


def test_a_family_that_does_not_pad(
    engine: Engine, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls are as large as there are jobs."""
    monkeypatch.setattr(filled, "pads", False, raising=False)
    keep(engine, measured())
    made_of(filled, items(11), at(engine))
    assert filled.calls == [8, 3]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_picture_is_the_same_beside_padding(engine: Engine, tmp_path: Path) -> None:
    """A filled call makes of each job what it is alone."""
    torch.set_num_threads(1)
    family, card = Diffusion(), BUILT_IN["debug-diffusion"]
    family.debug(tmp_path)
    model = family.load(tmp_path, card, Device("cpu"))
    resident = Resident(card, family, model)
    kind = KINDS["image"]
    fields = {**kind.example, "size": "32x32", "steps": 2}
    given = [
        Item(uuid4(), kind.Request.model_validate({**fields, "seed": seed})) for seed in range(3)
    ]
    keep(engine, measured())
    sizes: list[int] = []

    def pictures(some: Sequence[Item]) -> list[list[Output]]:
        where = at(engine)
        sizes.append(where.next_call(len(some), family.max_batch(model), pads=family.pads))
        made = make(resident, some, BatchContext(Held(uuid4()), bool), where)
        return [out for _, out in made if isinstance(out, list)]

    together = pictures(given)
    assert sizes == [4]
    assert len(together) == 3
    for item, made in zip(given, together, strict=True):
        (alone,) = family.generate(model, [item], Steps())
        assert isinstance(alone[1], list)
        assert media.difference(alone[1][0], made[0]) <= family.tolerance + 1e-6


def test_a_worker_claims_what_is_best(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    registered: Filled,
    make_runner: Callable[..., Runner],
) -> None:
    """Enough for the size that is being tried, and every job has one output of its own."""
    for seed in range(21):
        request = {"image": "sample:mug.png", "seed": seed}
        submit_job(services, tenant_id, JobSubmission(kind="tint", request=request))
    runner = make_runner()
    done = []
    while runner.run_next():
        done.append(value(engine, "SELECT count(*) FROM jobs WHERE status = 'succeeded'"))
    assert done == [6, 18, 21]
    assert registered.calls == [2, 2, 2, 4, 4, 4, 4]
    seeds = rows(engine, "SELECT facts ->> 'seed' AS seed FROM artifacts")
    assert sorted(int(row.seed) for row in seeds) == list(range(21))
