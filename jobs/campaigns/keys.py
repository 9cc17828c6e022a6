"""The keys by which a tenant names its own files in the bucket, with the date of a run in them."""

import re
from datetime import date
from uuid import UUID

MAX_KEY_CHARS = 500

# Nothing that could lead out of the tenant's own prefix, or that a URL would have to escape.
_SEGMENT = r"(?!\.+(?:/|$))[A-Za-z0-9._=-]+"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
# Never str.format() on what a customer wrote: its fields reach into Python's objects.
_DATE = re.compile(r"\{date(?::((?:%[YmdyjGVu]|[_.=-])+))?\}")
_ANY_DATE = date(2000, 1, 1)


def check_key(key: str) -> None:
    """ValueError if ``key``, which may hold ``{date}`` or such as ``{date:%Y%m%d}``, is no key."""
    if len(key) > MAX_KEY_CHARS:
        raise ValueError(f"a key has at most {MAX_KEY_CHARS} characters, not {len(key)}")
    plain = dated(key, _ANY_DATE)
    if "{" in plain or "}" in plain:
        raise ValueError("only {date} may be in braces, or a form of it such as {date:%Y%m%d}")
    if not _KEY.fullmatch(plain):
        raise ValueError(
            "is no key: letters, digits and '-_.=', with '/' between folders,"
            " such as lists/spring.csv"
        )


def has_date(key: str) -> bool:
    """Whether ``key`` names another file every day."""
    return bool(_DATE.search(key))


def dated(key: str, day: date) -> str:
    """``key`` with ``day`` in the place of each ``{date}``."""
    return _DATE.sub(lambda found: day.strftime(found[1] or "%Y-%m-%d"), key)


def object_key(tenant_id: UUID, key: str) -> str:
    """Where a tenant's file lies in the bucket: below a prefix that no other tenant can name."""
    check_key(key)
    assert not has_date(key)
    return f"files/{tenant_id}/{key}"
