"""Two small kinds that go with ``image``: a sound, and a clip that is made of the two."""

from types import MappingProxyType
from typing import Any

import pytest

import jobs.campaigns.creatives
import jobs.campaigns.file
import jobs.needs
import jobs.submissions
from jobs.kinds import KINDS, Kind, KindRequest
from jobs.kinds.values import ModelName, ReferenceText, Seed


class SoundRequest(KindRequest):
    """Something said."""

    text: str
    model: ModelName = "debug-diffusion"
    seed: Seed = None


class ClipRequest(KindRequest):
    """Pictures, and perhaps a sound."""

    pictures: tuple[ReferenceText, ...]
    voice: ReferenceText | None = None
    model: ModelName = "debug-diffusion"
    seed: Seed = None


def _as_it_is(request: Any, _: object) -> Any:
    return request


def _nothing(_: object) -> dict[str, Any]:
    return {}


SOUND = Kind(
    name="case-sound",
    summary="Something said.",
    makes="sound",
    Request=SoundRequest,
    templates=frozenset({"text"}),
    default_model="debug-diffusion",
    example={"text": "hello"},
    resolve=_as_it_is,
    batch_facts=_nothing,
)
CLIP = Kind(
    name="case-clip",
    summary="Pictures with a sound.",
    makes="video",
    Request=ClipRequest,
    templates=frozenset({"pictures", "voice"}),
    default_model="debug-diffusion",
    example={"pictures": ["sample:apple.png"]},
    resolve=_as_it_is,
    batch_facts=_nothing,
    inputs=MappingProxyType({"pictures": "picture", "voice": "sound"}),
)


def register(monkeypatch: pytest.MonkeyPatch, clip: Kind = CLIP) -> None:
    """Have all that knows kinds know these two as well."""
    known = MappingProxyType({**KINDS, SOUND.name: SOUND, clip.name: clip})
    for module in (jobs.campaigns.creatives, jobs.campaigns.file, jobs.needs, jobs.submissions):
        monkeypatch.setattr(module, "KINDS", known)
