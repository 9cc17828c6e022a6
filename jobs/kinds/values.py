"""Values that the requests of every kind are made of."""

import hashlib

MAX_SEED = 2**53 - 1
"""The largest integer that JSON readers agree on."""


def check_storable(text: str) -> None:
    """ValueError if PostgreSQL or UTF-8 cannot hold ``text`` (NUL, lone surrogates)."""
    if "\0" in text:
        raise ValueError("holds a NUL character, which cannot be stored")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is not text") from error


def derived_seed(*parts: str) -> int:
    """32 bits that depend on every one of ``parts`` and on nothing else."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big")
