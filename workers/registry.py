"""The families, by name. Importing this imports torch."""

from typing import Any

from workers.families.diffusion import Diffusion
from workers.family import Family

FAMILIES: dict[str, Family[Any]] = {"diffusion": Diffusion()}
