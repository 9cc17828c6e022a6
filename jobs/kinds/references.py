"""How a request names files that it starts from: a picture, a voice, another job's output.

A reference is text, so that a campaign can write it as a template. It is one of

- ``photos/mug.jpg``: a file of the tenant's in the bucket (`jobs.campaigns.keys`),
- ``picture:SHA256``: a picture that was uploaded, or read from such a file, and is safe to open,
- ``job:UUID``: what another job makes; the job waits for it,
- ``creative:NAME``: in a campaign, what that creative makes for the same recipient,
- ``sample:NAME``: a file that comes with Presswork, to try things out.

Behind a job's id and a creative's name ``#1`` may stand, for the second of several outputs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from jobs.campaigns.keys import check_key

Media = Literal["picture", "sound", "video", "text"]
"""What a file is, whatever its format."""

Scheme = Literal["file", "picture", "job", "creative", "sample"]

MAX_INDEX = 99

_MEDIA_TYPES: Mapping[Media, tuple[str, ...]] = MappingProxyType(
    {
        "picture": ("image/",),
        "sound": ("audio/",),
        "video": ("video/",),
        "text": ("text/", "application/json"),
    }
)

_CREATIVE = r"(?!\.+(?:#|$))[A-Za-z0-9._-]{1,64}"
_FORMS = {
    "picture": re.compile(r"picture:(?P<place>[0-9a-f]{64})"),
    "job": re.compile(r"job:(?P<place>[0-9a-fA-F-]{36})(?:#(?P<index>\d{1,2}))?"),
    "creative": re.compile(rf"creative:(?P<place>{_CREATIVE})(?:#(?P<index>\d{{1,2}}))?"),
    "sample": re.compile(r"sample:(?P<place>[a-z]+\.[a-z0-9]+)"),
}
_SAYS = {
    "picture": "picture: and the 64 hex digits of its sha256",
    "job": "job: and a job's id",
    "creative": "creative: and the name of another creative",
    "sample": "sample: and a name such as apple.png",
}


@dataclass(frozen=True)
class Reference:
    """A reference, taken apart. ``index`` chooses among the outputs of a job."""

    scheme: Scheme
    place: str
    index: int = 0

    def __str__(self) -> str:
        prefix = "" if self.scheme == "file" else f"{self.scheme}:"
        return f"{prefix}{self.place}" + (f"#{self.index}" if self.index else "")

    @property
    def job_id(self) -> UUID:
        """The job that a ``job:`` reference names."""
        return UUID(self.place)


def is_a(media_type: str, medium: Media) -> bool:
    """Whether a file of that media type is a picture, a sound, a video or a text."""
    return media_type.startswith(_MEDIA_TYPES[medium])


def parse(text: str) -> Reference:
    """The reference in ``text``; ValueError says what is wrong with it."""
    scheme, colon, _ = text.partition(":")
    if not colon:
        check_key(text)
        return Reference("file", text)
    for name in ("picture", "job", "creative", "sample"):
        if scheme != name:
            continue
        found = _FORMS[name].fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is not {_SAYS[name]}")
        groups = found.groupdict()
        reference = Reference(name, groups["place"], int(groups.get("index") or 0))
        if name == "job":
            try:
                return Reference("job", str(UUID(reference.place)), reference.index)
            except ValueError:
                raise ValueError(f"{text!r} is not {_SAYS['job']}") from None
        return reference
    raise ValueError(
        f"{text!r} is no reference: use a file's key, picture:SHA256, job:ID, creative:NAME "
        "or sample:NAME; nothing is fetched from elsewhere"
    )
