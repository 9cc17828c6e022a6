"""Deficit round robin by seconds of the device, simulated without a ledger."""

import random
from collections import Counter, defaultdict
from uuid import UUID

from workers.turns import KEPT, MOST_QUANTA_OWED, Shares, remember

QUANTUM_S = 10.0
A, B, C = (UUID(int=number) for number in range(3))


def test_a_thousand_tenants_get_equal_shares() -> None:
    """While all have work, no two differ by more than the quantum and the longest turn.

    That is the bound of deficit round robin; batches that cost ten times as much do not matter, of
    which turns that are counted in batches give ten times as much.
    """
    chance = random.Random(7)  # noqa: S311
    cost_s = {UUID(int=number): chance.uniform(0.5, 5) for number in range(1000)}
    had_s: dict[UUID, float] = defaultdict(float)
    batches: Counter[UUID] = Counter()
    shares = Shares(QUANTUM_S)
    spread_s = 0.0
    while sum(had_s.values()) < 1000 * 20 * QUANTUM_S:
        for tenant_id in shares.in_turn(cost_s):
            shares.spend(tenant_id, cost_s[tenant_id])
            had_s[tenant_id] += cost_s[tenant_id]
            batches[tenant_id] += 1
        spread_s = max(spread_s, max(had_s.values()) - min(had_s.values()))
    assert spread_s <= QUANTUM_S + max(cost_s.values())
    assert max(batches.values()) > 9 * min(batches.values())


def test_a_small_tenants_wait_does_not_depend_on_the_others_queues() -> None:
    """Of a thousand tenants with work for ever, one that comes with ten batches waits for a round.

    Until all ten are done, worth a quantum together, no other has more than the quantum and the
    longest turn.
    """
    longest_s = 40.0
    for arrives in (3, 1500):
        chance = random.Random(7)  # noqa: S311
        tenants = [UUID(int=number) for number in range(1000)]
        comer = UUID(int=1000)
        shares = Shares(QUANTUM_S)
        for _ in range(arrives):
            shares.spend(shares.in_turn(tenants)[0], chance.uniform(5, longest_s))
        had_s: dict[UUID, float] = defaultdict(float)
        turns = 0
        while had_s[comer] < 8.5:
            chosen = shares.in_turn([*tenants, comer])[0]
            seconds = 0.9 if chosen == comer else chance.uniform(5, longest_s)
            shares.spend(chosen, seconds)
            had_s[chosen] += seconds
            turns += 1
        assert max(had_s.values()) <= QUANTUM_S + longest_s
        assert turns <= 2 * len(tenants)


def test_who_had_least_comes_first() -> None:
    """On a key that all share, each batch is of whoever was served least."""
    shares = Shares(QUANTUM_S)
    shares.spend(A, 5)
    shares.spend(C, 2)
    assert shares.by_credit([A, B, C]) == [B, C, A]


def test_nobody_saves_up() -> None:
    """A tenant that had no work for long is ahead of the others by a quantum at most."""
    shares = Shares(QUANTUM_S)
    for _ in range(100):
        assert shares.in_turn([A]) == [A]
        shares.spend(A, QUANTUM_S)
    had_s: Counter[UUID] = Counter()
    while not had_s[A]:
        chosen = shares.in_turn([A, B])[0]
        shares.spend(chosen, 1)
        had_s[chosen] += 1
    assert had_s[B] <= QUANTUM_S + 1


def test_what_was_had_out_of_turn_is_soon_paid() -> None:
    """However much a tenant has had, others have no more than a few quanta before it is served."""
    shares = Shares(QUANTUM_S)
    shares.spend(A, 100_000)
    had_s = 0.0
    while A not in shares.in_turn([A, B]):
        shares.spend(B, 1)
        had_s += 1
    assert QUANTUM_S < had_s <= (MOST_QUANTA_OWED + 1) * QUANTUM_S + 1


def test_a_refund() -> None:
    """What was charged too much is given back, up to the quantum."""
    shares = Shares(QUANTUM_S)
    shares.spend(A, 5)
    shares.spend(A, -50)
    shares.spend(B, 1)
    assert shares.by_credit([B, A]) == [A, B]
    shares.spend(A, 2)
    assert shares.by_credit([A, B]) == [B, A]


def test_what_is_remembered_has_a_bound() -> None:
    """Of ever new tenants those that came last are known, however long the worker lives."""
    known: dict[int, int] = {}
    for number in range(KEPT + 2):
        remember(known, number, number)
        remember(known, 0, number)  # comes again and again
    assert len(known) == KEPT
    assert list(known)[-2:] == [KEPT + 1, 0]
    assert 1 not in known
