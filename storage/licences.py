"""What the licences of models allow: no legal advice, but the rules that jobs are held to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Licence:
    """What a licence says of the use of a model and of what it makes.

    ``commercial`` None: that depends on who uses it. ``derivatives``: whether what was adapted from
    it may be passed on, such as a model that was trained on it. ``attribution`` says that outputs
    must name their source; ``words`` is the text where the licence itself prescribes one.
    """

    commercial: bool | None = True
    derivatives: bool = True
    attribution: bool = False
    words: str | None = None
    note: str = ""


_SHARE_ALIKE = "what is adapted from the model must be passed on under the same licence"
_NO_DERIVATIVES = "what is adapted from it must not be passed on"
_COPYLEFT = "who passes it on passes on its source"
_RAIL = "an annex forbids some uses, whoever the user is"
_LLAMA = "free below 700 million users a month"

LICENCES: Mapping[str, Licence] = MappingProxyType(
    {
        "0BSD": Licence(),
        "AGPL-3.0-only": Licence(note=f"{_COPYLEFT}, and so does who serves it"),
        "Apache-2.0": Licence(),
        "BSD-2-Clause": Licence(),
        "BSD-3-Clause": Licence(),
        "CC-BY-4.0": Licence(attribution=True),
        "CC-BY-NC-4.0": Licence(commercial=False, attribution=True),
        "CC-BY-NC-ND-4.0": Licence(
            commercial=False, derivatives=False, attribution=True, note=_NO_DERIVATIVES
        ),
        "CC-BY-NC-SA-4.0": Licence(commercial=False, attribution=True, note=_SHARE_ALIKE),
        "CC-BY-ND-4.0": Licence(derivatives=False, attribution=True, note=_NO_DERIVATIVES),
        "CC-BY-SA-4.0": Licence(attribution=True, note=_SHARE_ALIKE),
        "CC0-1.0": Licence(),
        "GPL-3.0-only": Licence(note=_COPYLEFT),
        "LicenseRef-CreativeML-OpenRAIL-M": Licence(note=_RAIL),
        "LicenseRef-CreativeML-OpenRAIL-PlusPlus-M": Licence(note=_RAIL),
        "LicenseRef-flux-1-dev-non-commercial": Licence(
            commercial=False, note="a licence for commercial use is sold by Black Forest Labs"
        ),
        "LicenseRef-llama3": Licence(
            attribution=True, words="Built with Meta Llama 3", note=_LLAMA
        ),
        **{
            f"LicenseRef-llama3.{minor}": Licence(
                attribution=True, words="Built with Llama", note=_LLAMA
            )
            for minor in (1, 2, 3)
        },
        "LicenseRef-sai-nc-community": Licence(commercial=False, note="for research alone"),
        "LicenseRef-stability-ai-community": Licence(
            commercial=None,
            attribution=True,
            words="Powered by Stability AI",
            note="commercial use is free for those who earn less than 1 million USD a year",
        ),
        "MIT": Licence(),
        "MIT-0": Licence(),
    }
)
"""By SPDX identifier. What SPDX does not list is called ``LicenseRef-...``, as it demands."""

# Not within parentheses.
_AND = re.compile(r" AND (?![^(]*\))")
_OR = re.compile(r" OR (?![^(]*\))")


def parts_of(expression: str) -> list[str]:
    """What an SPDX expression joins by AND; a choice (OR) is one part, in parentheses."""
    return [f"({expression})"] if _OR.search(expression) else _AND.split(expression)


def rules_of(expression: str) -> list[Licence | None]:
    """What is known of each part of an SPDX expression."""
    return [LICENCES.get(part) for part in parts_of(expression)]


def without_derivatives(expression: str) -> list[str]:
    """The parts of an SPDX expression that forbid to pass on what was adapted."""
    found = zip(parts_of(expression), rules_of(expression), strict=True)
    return [part for part, rule in found if rule and not rule.derivatives]
