"""The kinds of job, by name. A kind is the half of a family that needs no torch."""

from collections.abc import Mapping
from types import MappingProxyType

from jobs.kinds.caption import CAPTION
from jobs.kinds.gan import GAN
from jobs.kinds.image import IMAGE
from jobs.kinds.kind import Kind, KindRequest
from jobs.kinds.slideshow import SLIDESHOW
from jobs.kinds.sound import SOUND
from jobs.kinds.speech import SPEECH
from jobs.kinds.text import TEXT
from jobs.kinds.vae import VAE
from jobs.kinds.video import VIDEO

KINDS: Mapping[str, Kind] = MappingProxyType(
    {kind.name: kind for kind in (CAPTION, GAN, IMAGE, SLIDESHOW, SOUND, SPEECH, TEXT, VAE, VIDEO)}
)

__all__ = ["KINDS", "Kind", "KindRequest"]
