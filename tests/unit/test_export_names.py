"""File names of exported artifacts: no two alike, none that a file system trips over."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.export import file_name
from storage.lifecycle import JobStatus
from storage.views import ArtifactView, JobView

JOB = UUID("019a0000-0000-7000-8000-000000000001")
OTHER = UUID("019a0000-0000-7000-8000-000000000002")

LONGEST_NAME_BYTES = 255

# What a recipient's id may hold: no NUL and no half surrogate pairs, 512 characters at most.
KEYS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=512
) | st.text("aA./\\%~+- é\u0301", min_size=1, max_size=8)
CREATIVES = st.sampled_from(["hero", "hero-1", "hero.1"]) | st.from_regex(
    r"(?!\.+$)[A-Za-z0-9._-]{1,64}", fullmatch=True
)
INDEXES = st.sampled_from([0, 1, 32767])


def name(
    recipient: str | None,
    creative: str | None = "hero",
    index: int = 0,
    *,
    job_id: UUID = JOB,
    is_twin: bool = False,
) -> str:
    """The file name for one output."""
    job = JobView(
        id=job_id,
        kind="image",
        status=JobStatus.SUCCEEDED,
        campaign_id=None,
        creative=creative,
        recipient=recipient,
        priority=0,
        attempts=1,
        cancel_requested=False,
        wait_reason=None,
        error=None,
        created_at=datetime.now(UTC),
        finished_at=None,
        artifacts=(),
    )
    artifact = ArtifactView(
        id=job_id,
        index=index,
        object_key=f"artifacts/c/{job_id}-{index}-0123456789abcdef.png",
        media_type="image/png",
        sha256="",
        size_bytes=0,
        facts={},
    )
    return file_name(replace(job, artifacts=(artifact,)), artifact, is_twin=is_twin)


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("C-001", "C-001+hero.png"),
        ("ada@example.org", "ada@example.org+hero.png"),
        ("Bjørn", "Bjørn+hero.png"),
        ("王小明", "王小明+hero.png"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd+hero.png"),
        ("a/b", "a%2Fb+hero.png"),
        ("a\\b", "a%5Cb+hero.png"),
        (".hidden", "%2Ehidden+hero.png"),
        ("..", "%2E.+hero.png"),
        ("CON", "CON+hero.png"),
        ("line\nbreak", "line%0Abreak+hero.png"),
        ("=1+1", "%3D1%2B1+hero.png"),
        ("-rf", "%2Drf+hero.png"),
        ("a-b", "a-b+hero.png"),
        ("dot.", "dot.+hero.png"),
        ("space ", "space%20+hero.png"),
        ("50%", "50%25+hero.png"),
        ("🎁", "%F0%9F%8E%81+hero.png"),
        ("a~b", "a%7Eb+hero.png"),
        (None, f"{JOB}+hero.png"),
    ],
)
def test_names(recipient: str | None, expected: str) -> None:
    """Letters and digits of any script can be read; everything else is spelt in hexadecimal."""
    assert name(recipient) == expected


def test_a_name_without_a_campaign() -> None:
    """A job of its own goes by its id and its kind."""
    assert name(None, None) == f"{JOB}+image.png"


def test_further_outputs_are_numbered() -> None:
    """The second output of a job has its place in its name."""
    assert name("a", index=1) == "a+hero+1.png"
    assert name("a", "hero-1") == "a+hero-1.png"


@pytest.mark.parametrize("recipient", ["a" * 512, "王" * 512, "🎁" * 512, "a/" * 256, "é" * 141])
def test_a_long_id_is_cut(recipient: str) -> None:
    """What does not fit is cut between characters, and the job's id stands for the rest."""
    cut, _, rest = name(recipient).partition("~")
    assert rest == f"{JOB}+hero.png"
    assert name(recipient[:32]).removesuffix("+hero.png").startswith(cut[:32])
    assert 100 < len(cut.encode()) <= 140
    assert re.fullmatch("([^%]|%[0-9A-F]{2})+", cut)


@given(recipient=KEYS, creative=CREATIVES, index=INDEXES, is_twin=st.booleans())
def test_names_are_safe(*, recipient: str, creative: str, index: int, is_twin: bool) -> None:
    """A name is one plain component on every system: visible, short, without control characters."""
    found = name(recipient, creative, index, is_twin=is_twin)
    assert PurePosixPath(found).name == found
    assert PureWindowsPath(found).name == found
    assert not PureWindowsPath(found).is_reserved()
    assert len(found.encode()) <= LONGEST_NAME_BYTES
    assert not found.startswith((".", "-", "~"))
    assert not found.endswith((".", " "))
    assert not set(found) & set("<>:\"/\\|?*=;&$`'()[]{}!#, ")
    assert all(character.isalnum() or character in "-_@.%~+" for character in found)


@given(st.lists(st.tuples(KEYS, CREATIVES, INDEXES), min_size=2, max_size=8, unique=True))
def test_names_are_all_different(outputs: Sequence[tuple[str, str, int]]) -> None:
    """Different recipients, creatives or places among a job's outputs are different names."""
    jobs: dict[tuple[str, str], UUID] = {}
    names = set()
    for recipient, creative, index in outputs:
        job_id = jobs.setdefault((recipient, creative), UUID(int=JOB.int + len(jobs)))
        names.add(name(recipient, creative, index, job_id=job_id))
    assert len(names) == len(outputs)


@given(KEYS)
def test_a_name_can_be_read_back(recipient: str) -> None:
    """From a name that was not cut the recipient's id comes back, whatever it held."""
    found = name(recipient).removesuffix("+hero.png")
    if "~" in found:
        return
    raw = bytearray()
    rest = found.encode()
    while rest:
        head, escape, rest = rest.partition(b"%")
        raw += head
        if escape:
            raw += bytes.fromhex(rest[:2].decode())
            rest = rest[2:]
    assert raw.decode() == recipient


def test_twins_are_told_apart_by_their_jobs() -> None:
    """Ids that differ in case only get names that differ on file systems that ignore case."""
    names = {name("ada"), name("ADA", job_id=OTHER, is_twin=True)}
    assert {unicodedata.normalize("NFC", each).casefold() for each in names} == {
        "ada+hero.png",
        f"ada~{OTHER}+hero.png",
    }
