"""Creatives: compiled against a model, stored, and rendered for each recipient."""

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from jobs.campaigns.creatives import (
    CompiledCreative,
    Creative,
    check,
    compile_campaign,
    render,
    seed_of,
)
from jobs.campaigns.file import CampaignSpec, from_mapping, parse_yaml
from jobs.campaigns.recipients import Recipient, from_rows, read_csv, read_jsonl
from jobs.kinds.image import ImageRequest
from jobs.problems import BadInputError
from storage.models import BUILT_IN

JOB = UUID(int=1)
OTHER_JOB = UUID(int=2)
ROW = {"id": "7", "product": "mug", "colour": "blue"}


def spec_of(*creatives: dict[str, Any], **campaign: object) -> CampaignSpec:
    """A campaign of these creatives, called c0, c1, ..."""
    named = [{"name": f"c{index}", **each} for index, each in enumerate(creatives)]
    return from_mapping(
        {"name": "Spring", "recipients": {"id": "id"}, "creatives": named, **campaign}
    )


def compiled(*creatives: dict[str, Any]) -> list[CompiledCreative]:
    """These creatives for the built-in models."""
    return compile_campaign(spec_of(*creatives), BUILT_IN)


def one(prompt: str = "{{ product }} on {{ colour }}", **fields: object) -> Creative:
    """One creative, c0."""
    return compiled({"prompt": prompt, **fields})[0].creative


def key_of(prompt: str = "{{ product }}", **fields: object) -> str:
    """The batch key of one creative."""
    return compiled({"prompt": prompt, **fields})[0].batch_key


def messages(recipients: Iterable[Recipient]) -> list[str]:
    """Every problem that reading ends with."""
    with pytest.raises(BadInputError) as caught:
        list(recipients)
    return [str(problem) for problem in caught.value.problems]


def test_render() -> None:
    """A creative becomes the kind's request, with what it left open taken from the model."""
    assert render(one(seed=5, steps=3), ROW, "7", JOB) == ImageRequest(
        prompt="mug on blue",
        model="debug-diffusion",
        size="128x128",
        steps=3,
        guidance=5.0,
        seed=5,
    )


def test_stored_and_read_back() -> None:
    """A creative that went through JSON renders the same request."""
    creative = one()
    stored = json.loads(json.dumps(creative.parameters))
    again = Creative.from_parameters(creative.name, creative.kind.name, stored)
    assert again == creative
    assert render(again, ROW, "7", JOB) == render(creative, ROW, "7", JOB)


def test_batch_key() -> None:
    """Prompts and seeds share a batch; sizes do not; a default is as good as its value."""
    key = key_of()
    assert key_of("other", seed=3) == key
    assert key_of(size="128x128", steps=8) == key
    assert key_of(size="64x64") != key


def test_seed_per_recipient() -> None:
    """The same recipient gets the same seed in every run, and another one in another creative."""
    creative = one()
    assert seed_of(creative, "7", JOB) == seed_of(creative, "7", OTHER_JOB) == 3136929157
    assert seed_of(creative, "8", JOB) != seed_of(creative, "7", JOB)
    assert seed_of(replace(creative, name="other"), "7", JOB) != seed_of(creative, "7", JOB)


def test_seed_random() -> None:
    """A random seed belongs to the job: the same when it is tried again, new in the next run."""
    creative = one(seed="random")
    assert seed_of(creative, "7", JOB) == seed_of(creative, "8", JOB)
    assert seed_of(creative, "7", JOB) != seed_of(creative, "7", OTHER_JOB)


def test_seed_fixed() -> None:
    """A number is the seed of every recipient."""
    assert seed_of(one(seed=2**40), "7", JOB) == 2**40


@pytest.mark.parametrize(
    ("creative", "error"),
    [
        (
            {"prompt": "x", "size": "100x128"},
            (
                "creatives[0].size: 100x128: model 'debug-diffusion' takes sides that are "
                "multiples of 8; nearest to 100: 96 or 104"
            ),
        ),
        (
            {"prompt": "x", "model": "debug-difusion"},
            "creatives[0].model: unknown model 'debug-difusion'; did you mean 'debug-diffusion'?",
        ),
        (
            {"prompt": "{{ a | upcas }}"},
            (
                "creatives[0].prompt: template line 1, character 8: unknown filter 'upcas'; "
                "did you mean 'upcase'?"
            ),
        ),
    ],
)
def test_bad_creative(creative: dict[str, Any], error: str) -> None:
    """What the model cannot do, or Liquid cannot read, is named by its field."""
    with pytest.raises(BadInputError) as caught:
        compiled(creative)
    assert str(caught.value) == error


def test_all_creatives_are_checked() -> None:
    """Problems of several creatives come together; a model they share is one problem."""
    with pytest.raises(BadInputError) as caught:
        compile_campaign(
            spec_of({"prompt": "x"}, {"prompt": "y"}, {"prompt": "{{", "model": "m"}, model="none"),
            {"m": BUILT_IN["debug-diffusion"]},
        )
    assert str(caught.value).splitlines() == [
        "model: unknown model 'none'; known: m",
        "creatives[2].prompt: template line 1, character 1: expected '}}', found end of file",
    ]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"product": "mug"}, "c0.prompt: column 'colour' is missing"),
        (
            {"product": "m" * 4000, "colour": "blue"},
            "c0.prompt: after rendering: String should have at most 4000 characters",
        ),
    ],
)
def test_row_that_cannot_be_rendered(row: dict[str, str], error: str) -> None:
    """A request that a row makes impossible is refused with creative and field."""
    with pytest.raises(BadInputError) as caught:
        render(one(), row, "7", JOB)
    assert str(caught.value) == error


def test_check_passes_good_recipients_on() -> None:
    """Recipients come out of the check as they went in, one at a time."""
    data = b"id,product,colour\n1,mug,blue\n2,cup,red\n"
    rows = check(read_csv(io.BytesIO(data), "r.csv", "id"), [one()], file="r.csv", is_table=True)
    assert [next(rows).key, next(rows).key] == ["1", "2"]


def test_check_names_a_column_that_no_row_has() -> None:
    """A column that is not in a CSV header is one problem, at the template and not per row."""
    spec = parse_yaml(
        "name: a\nrecipients: {id: id}\ncreatives:\n  - name: hero\n"
        "    prompt: '{{ product }} {{ colour }} {{ shade | default: 1 }}'\n",
        "c.yaml",
    )
    creatives = [compiled.creative for compiled in compile_campaign(spec, BUILT_IN)]
    rows = read_csv(io.BytesIO(b"id,product\n1,mug\n2,cup\n"), "r.csv", "id")
    assert messages(check(rows, creatives, file="r.csv", is_table=True, place=spec.place)) == [
        (
            "c.yaml:5: creatives[0].prompt: column 'colour' is missing in r.csv; "
            "its columns: id, product"
        )
    ]


def test_check_names_the_line_of_a_row() -> None:
    """Rows of their own columns are checked one by one, and named by their line."""
    data = b'{"id": 1, "product": "mug"}\n\n{"id": 2}\n{"id": 3, "product": ""}\n'
    rows = read_jsonl(io.BytesIO(data), "r.jsonl", "id")
    creatives = [one("{{ product }}"), one("a {{ product }}")]
    assert messages(check(rows, creatives, file="r.jsonl", is_table=False)) == [
        "r.jsonl:3: creatives[0].prompt: column 'product' is missing",
        "r.jsonl:3: creatives[1].prompt: column 'product' is missing",
        "r.jsonl:4: creatives[0].prompt: after rendering: String should have at least 1 character",
    ]


def test_check_names_inline_rows() -> None:
    """A row that came in the request has a place in it instead of a line."""
    rows = from_rows([ROW, {"id": 2}], "id")
    assert messages(check(rows, [one("{{ colour }}")], file=None, is_table=False)) == [
        "creatives[0].prompt: column 'colour' is missing, in recipients.rows[1]"
    ]


def test_check_stops_after_enough() -> None:
    """A million bad rows are not a million problems."""
    rows = from_rows(({"id": number} for number in range(100)), "id")
    found = messages(check(rows, [one("{{ colour }}")], file=None, is_table=False))
    assert len(found) == 21
    assert found[-1] == "there may be more problems; the check stopped here"


def test_check_keeps_problems_before_a_broken_row() -> None:
    """When the file cannot be read on, the problems so far are reported with it."""
    rows = read_jsonl(io.BytesIO(b'{"id": 1}\n{"id":\n'), "r.jsonl", "id")
    found = messages(check(rows, [one("{{ colour }}")], file="r.jsonl", is_table=False))
    assert [each.split(": ")[0] for each in found] == ["r.jsonl:1", "r.jsonl:2"]
