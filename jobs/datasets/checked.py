"""What a dataset is found to be, once nothing is wrong with it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.datasets import triggers
from jobs.problems import BadInputError, Problem
from storage.datasets import Kind
from storage.objects import sha256_hex

MAX_GIVEN = 100
"""Problems, and warnings, that are told; of more only their number is."""


@dataclass(frozen=True)
class Checked:
    """A dataset's manifest, a line per item, and the pictures that it names by their digests.

    ``sizes`` counts pictures by such as ``640x480``, ``masks`` those that have one.
    """

    kind: Kind
    count: int
    manifest: bytes = field(repr=False)
    warnings: tuple[Problem, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    masks: int = 0
    pictures: Mapping[str, Path] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """The sha256 over the manifest: two datasets of one digest have the same content."""
        return sha256_hex(self.manifest)


def manifest_of(items: Iterable[Mapping[str, Any]]) -> bytes:
    """The items as canonical JSON Lines: the same items are the same bytes."""
    return b"".join(
        json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        for item in items
    )


def refuse(problems: Iterable[Problem]) -> None:
    """Raise BadInputError with what is wrong, by file and line, if anything is."""
    found = sorted(problems, key=lambda problem: (problem.file or "", problem.line or 0))
    if found:
        raise BadInputError(*told(found))


def told(problems: list[Problem]) -> list[Problem]:
    """As many as anybody reads, and how many more there are."""
    more = len(problems) - MAX_GIVEN
    return [*problems[:MAX_GIVEN], Problem(f"and {more} more")] if more > 0 else problems


def trigger_warnings(trigger: str | None, texts: list[str], what: str) -> list[Problem]:
    """That not all of ``texts``, which are called ``what``, have the trigger in them."""
    used = triggers.uses(trigger, texts) if trigger else len(texts)
    if used == len(texts):
        return []
    message = f"{trigger!r} is in {used or 'none'} of {len(texts)} {what}"
    return [Problem(message, field="trigger")]
