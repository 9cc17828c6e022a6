"""The keys of a tenant's files: nothing but a plain path, with dates in it."""

from datetime import date
from uuid import UUID

import pytest

from jobs.campaigns.keys import MAX_KEY_CHARS, check_key, dated, has_date, object_key

TENANT = UUID("00000000-0000-7000-8000-000000000001")
DAY = date(2026, 1, 5)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("list.csv", "list.csv"),
        ("lists/{date}.csv", "lists/2026-01-05.csv"),
        ("lists/{date:%Y%m%d}.csv", "lists/20260105.csv"),
        ("{date:%Y}/week={date:%V}/{date:%d.%m.%y}.jsonl", "2026/week=02/05.01.26.jsonl"),
    ],
)
def test_dates_in_keys(key: str, expected: str) -> None:
    """Each date is written as its own form says, and nothing else changes."""
    check_key(key)
    assert dated(key, DAY) == expected
    assert has_date(key) == (key != expected)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/list.csv",
        "lists/",
        "lists//a.csv",
        "..",
        "../other/list.csv",
        "lists/../../list.csv",
        "./list.csv",
        "lists/{date}/..",
        "list.csv\n",
        "a b.csv",
        "ä.csv",
        "a%2e.csv",
        "lists/{day}.csv",
        "lists/{date",
        "lists/{date.year}.csv",
        "lists/{date:%H}.csv",
        "lists/{date:%Y/%m}.csv",
        "lists/{date:}.csv",
        "lists/{0.__class__}.csv",
        "a" * (MAX_KEY_CHARS + 1),
    ],
)
def test_what_is_no_key(key: str) -> None:
    """What could lead elsewhere, or means something else than it seems, is refused."""
    with pytest.raises(ValueError, match=r"key|braces"):
        check_key(key)


def test_a_key_lies_below_its_tenant() -> None:
    """The tenant's id comes first, and what is no key never becomes one."""
    assert object_key(TENANT, "lists/a.csv") == f"files/{TENANT}/lists/a.csv"
    with pytest.raises(ValueError, match="no key"):
        object_key(TENANT, "../a.csv")
