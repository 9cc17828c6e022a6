"""The kinds of job, by name. A kind is the half of a family that needs no torch."""

from collections.abc import Mapping
from types import MappingProxyType

from jobs.kinds.image import IMAGE
from jobs.kinds.kind import Kind, KindRequest

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in (IMAGE,)})

__all__ = ["KINDS", "Kind", "KindRequest"]
