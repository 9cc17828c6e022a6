"""The family that docs/families.md adds, as it stands there."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from jobs.kinds import Kind
from storage.models import ModelCard
from workers.family import Family

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def blocks() -> dict[str, str]:
    """The page's Python, by the path that stands in the first line of each block."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", text, flags=re.DOTALL)
    return dict(found)


def lines() -> int:
    """How many lines of code the newcomer writes, blank ones aside."""
    return sum(bool(line.strip()) for source in blocks().values() for line in source.splitlines())


def family() -> tuple[Kind, Family[Any], ModelCard]:
    """The kind, the family and the card."""
    kind = _module("jobs/kinds/upscale.py").UPSCALE
    made = _module("workers/families/upscale/__init__.py").Upscale()
    (card,) = re.findall(r"`(ModelCard\(.*?\))`", PAGE.read_text(encoding="utf-8"))
    return kind, made, eval(card, {"ModelCard": ModelCard})  # noqa: S307 (our own page)


def _module(path: str) -> ModuleType:
    module = ModuleType(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    sys.modules[module.__name__] = module  # where pydantic looks up annotations
    exec(compile(blocks()[path], path, "exec"), vars(module))  # noqa: S102 (our own page)
    return module
