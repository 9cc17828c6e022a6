"""The families, by name. Importing this imports torch."""

from typing import Any

from workers.families.caption import Caption
from workers.families.causal_lm import CausalLM
from workers.families.diffusion import Diffusion
from workers.families.gan import Gan
from workers.families.slideshow import Slideshow
from workers.families.sound import Sound
from workers.families.speech import Speech
from workers.families.vae import Vae
from workers.families.video import Video
from workers.family import Family

FAMILIES: dict[str, Family[Any]] = {
    "caption": Caption(),
    "causal_lm": CausalLM(),
    "diffusion": Diffusion(),
    "gan": Gan(),
    "slideshow": Slideshow(),
    "sound": Sound(),
    "speech": Speech(),
    "vae": Vae(),
    "video": Video(),
}
