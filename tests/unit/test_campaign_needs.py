"""Creatives that start from one another: what is taken, and what is refused and where."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from jobs.campaigns.creatives import CompiledCreative, Creative, check, compile_campaign, render
from jobs.campaigns.file import parse_yaml
from jobs.campaigns.recipients import from_rows
from jobs.problems import BadInputError
from storage.models import BUILT_IN
from tests import bundle_kinds
from tests.bundle_kinds import ClipRequest

JOB = UUID(int=1)

HEAD = "name: Bundle\nrecipients: {id: id}\ncreatives:\n"
PICTURE = "  - {name: picture, prompt: a mug}\n"
VOICE = "  - {name: voice, kind: case-sound, text: hello}\n"


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle_kinds.register(monkeypatch)


def compiled(*creatives: str) -> list[CompiledCreative]:
    """A campaign file of these creatives, compiled."""
    return compile_campaign(parse_yaml(HEAD + "".join(creatives), "c.yaml"), BUILT_IN)


def errors(*creatives: str) -> list[str]:
    """What is wrong with it."""
    with pytest.raises(BadInputError) as caught:
        compiled(*creatives)
    return [str(problem) for problem in caught.value.problems]


def clip(pictures: str, voice: str = "", name: str = "clip") -> str:
    """A clip, three or four lines long."""
    spoken = f"    voice: {voice}\n" if voice else ""
    return f"  - name: {name}\n    kind: case-clip\n    pictures: {pictures}\n{spoken}"


def rendered(pictures: str, voice: str = "", **row: Any) -> ClipRequest:
    """The request of a clip for one row, after it was stored and read back."""
    creative = compiled(PICTURE, VOICE, clip(pictures, voice))[-1].creative
    stored = json.loads(json.dumps(creative.parameters))
    again = Creative.from_parameters(creative.name, creative.kind.name, stored)
    request = render(again, {"id": 1, **row}, "1", JOB)
    assert isinstance(request, ClipRequest)
    return request


def test_needs() -> None:
    """A creative needs those that its fields name, each once, wherever they stand in the file."""
    found = compiled(
        clip("['creative:picture', 'shots/{{ sku }}.jpg', 'creative:picture#1']", "creative:voice"),
        PICTURE,
        VOICE,
    )
    assert [creative.inputs.needs for creative in found] == [("picture", "voice"), (), ()]


def test_lists_of_templates() -> None:
    """Each text in a list is rendered by itself; what is written out stays as it is."""
    request = rendered(
        "['creative:picture', 'shots/{{ sku }}.jpg', '{{ photo }}']",
        "creative:voice",
        sku="mug-7",
        photo="picture:" + "a" * 64,
    )
    expected = ("creative:picture", "shots/mug-7.jpg", "picture:" + "a" * 64)
    assert (request.pictures, request.voice) == (expected, "creative:voice")


def test_a_sample_by_its_name() -> None:
    """The text before a value may say that it names a sample."""
    assert rendered("['sample:{{ fruit }}.png']", fruit="apple").pictures == ("sample:apple.png",)


@pytest.mark.parametrize(
    "photo", [f"job:{JOB}", "creative:voice", "creative:picture", "sample:apple.png"]
)
def test_a_row_names_files_only(photo: str) -> None:
    """What a recipient's value looks like makes no need, nor anything else than a file."""
    scheme = photo.partition(":")[0]
    with pytest.raises(BadInputError) as caught:
        rendered("[a.png, '{{ photo }}']", photo=photo)
    assert str(caught.value) == (
        f"clip.pictures[1]: a row may name a file or picture:SHA256, but not {scheme}: anything"
    )


def test_a_row_leads_nowhere_else() -> None:
    """A value cannot climb out of the folder that the template names, nor name a URL."""
    for sku in ("../secret", "a b", "x:y"):
        with pytest.raises(BadInputError, match=r"clip\.pictures\[0\]: after rendering: "):
            rendered("['shots/{{ sku }}.jpg']", sku=sku)


def test_problems_of_a_row_name_the_place_in_the_list() -> None:
    """At submission each row is checked, with the field of the campaign."""
    creatives = [item.creative for item in compiled(clip("[a.png, '{{ photo }}']"))]
    rows = from_rows([{"id": 1, "photo": "b.png"}, {"id": 2, "photo": "job:x"}, {"id": 3}], "id")
    with pytest.raises(BadInputError) as caught:
        list(check(rows, creatives, file=None, is_table=False))
    assert [problem.field for problem in caught.value.problems] == ["creatives[0].pictures[1]"] * 2


@pytest.mark.parametrize(
    ("creatives", "error"),
    [
        (
            (PICTURE, clip("['creative:pictur']")),
            (
                "c.yaml:7: creatives[1].pictures[0]: there is no creative 'pictur'; "
                "did you mean 'picture'?"
            ),
        ),
        (
            (PICTURE, clip("[a.png]", "creative:picture")),
            ("c.yaml:8: creatives[1].voice: takes sound, and creative 'picture' makes picture"),
        ),
        (
            (clip("['creative:clip']"),),
            "c.yaml:6: creatives[0].pictures[0]: a creative cannot start from itself",
        ),
        (
            (PICTURE, clip("[a.png, 'creative:{{ which }}']")),
            (
                "c.yaml:7: creatives[1].pictures[1]: what a creative starts from is the same for "
                "every recipient: write the name out"
            ),
        ),
        (
            (clip(f"['job:{JOB}']"),),
            (
                "c.yaml:6: creatives[0].pictures[0]: job:ID is for single jobs; here "
                "creative:NAME names another creative"
            ),
        ),
        (
            (clip("['https://example.org/a.png']"),),
            (
                "c.yaml:6: creatives[0].pictures[0]: 'https://example.org/a.png' is no reference: "
                "use a file's key, picture:SHA256, job:ID, creative:NAME or sample:NAME; nothing "
                "is fetched from elsewhere"
            ),
        ),
        (
            (clip("['{{ photo']"),),
            (
                "c.yaml:6: creatives[0].pictures[0]: template line 1, character 1: expected '}}', "
                "found end of file"
            ),
        ),
    ],
)
def test_what_is_refused(creatives: tuple[str, ...], error: str) -> None:
    """Each mistake is named with its line and its place in the list."""
    assert errors(*creatives) == [error]


def test_a_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Creatives that need one another are refused, once, by their names in turn."""
    bundle_kinds.register(monkeypatch, clip=replace(bundle_kinds.CLIP, makes="picture"))
    assert errors(
        clip("['creative:c']", name="a"),
        clip("['creative:a']", name="b"),
        clip("[x.png, 'creative:b']", name="c"),
    ) == [
        "c.yaml:6: creatives[0].pictures[0]: goes in a circle: a needs c needs b needs a",
    ]
