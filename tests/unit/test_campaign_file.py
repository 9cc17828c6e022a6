"""The campaign file: every mistake with its line, all of them at once."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.campaigns.file import from_mapping, load, parse_yaml
from jobs.problems import BadInputError, Problem

GOOD = """\
name: Spring sale
model: debug-diffusion
recipients:
  file: recipients.csv
  id: customer_id
creatives:
  - name: hero
    prompt: "{{ product }} on a {{ colour }} background"
    size: 128x128
    steps: 8
    guidance: 5.0
  - name: tile.2
    kind: image
    prompt: >
      {{ product }}
      alone
    seed: 7
"""


def errors_of(text: str) -> list[str]:
    """Every problem of a file, as it is printed."""
    with pytest.raises(BadInputError) as caught:
        parse_yaml(text, "c.yaml")
    return [str(problem) for problem in caught.value.problems]


def data(**creative: object) -> dict[str, Any]:
    """The smallest campaign, with fields of its creative added or replaced."""
    return {
        "name": "Spring",
        "recipients": {"id": "id"},
        "creatives": [{"name": "hero", "prompt": "a mug", **creative}],
    }


def test_good_file() -> None:
    """A campaign file becomes a spec with defaults, and the kind's fields as its request."""
    spec = parse_yaml(GOOD, "c.yaml")
    hero, tile = spec.creatives
    assert (spec.name, spec.recipients.file, spec.recipients.id) == (
        "Spring sale",
        "recipients.csv",
        "customer_id",
    )
    assert (hero.kind, hero.seed, tile.seed) == ("image", "per-recipient", 7)
    assert hero.request == {
        "prompt": "{{ product }} on a {{ colour }} background",
        "size": "128x128",
        "steps": 8,
        "guidance": 5.0,
    }
    assert tile.request == {"prompt": "{{ product }} alone\n"}


def test_spec_round_trip() -> None:
    """What a spec dumps, as to be stored, is the campaign again."""
    spec = parse_yaml(GOOD, "c.yaml")
    assert from_mapping(spec.model_dump(mode="json")) == from_mapping(spec.model_dump())


@pytest.mark.parametrize(
    ("old", "new", "errors"),
    [
        ("name: Spring sale\n", "", ["c.yaml:1: name: is required"]),
        ("model:", "modle:", ["c.yaml:2: modle: unknown key; did you mean 'model'?"]),
        ("  id: customer_id\n", "", ["c.yaml:3: recipients.id: is required"]),
        (
            "  file: recipients.csv\n",
            "  flie: recipients.csv\n",
            ["c.yaml:4: recipients.flie: unknown key; did you mean 'file'?"],
        ),
        (
            "    steps: 8\n",
            "    setps: 8\n",
            ["c.yaml:10: creatives[0].setps: unknown key; did you mean 'steps'?"],
        ),
        (
            "    kind: image\n",
            "    kind: imgae\n",
            ["c.yaml:13: creatives[1].kind: unknown kind 'imgae'; did you mean 'image'?"],
        ),
        (
            "    steps: 8\n",
            "    steps: 0\n",
            ["c.yaml:10: creatives[0].steps: Input should be greater than or equal to 1"],
        ),
        (
            "size: 128x128",
            "size: big",
            ["c.yaml:9: creatives[0].size: 'big' is not WIDTHxHEIGHT, for example 512x512"],
        ),
        (
            "tile.2",
            "a/b",
            ["c.yaml:12: creatives[1].name: 'a/b' is not 1 to 64 letters, digits, '-', '_' or '.'"],
        ),
        (
            "tile.2",
            "..",
            ["c.yaml:12: creatives[1].name: '..' is not 1 to 64 letters, digits, '-', '_' or '.'"],
        ),
        (
            "tile.2",
            "HERO",
            [
                (
                    "c.yaml:12: creatives[1].name: 'HERO' is the name of creatives[0] too; "
                    "case does not count"
                )
            ],
        ),
        (
            "seed: 7",
            "seed: yes",
            [
                (
                    "c.yaml:17: creatives[1].seed: must be per-recipient, random or an integer "
                    "from 0 to 9007199254740991"
                )
            ],
        ),
        (
            "  id: customer_id\n",
            "  id: customer_id\n  delimiter: '\\t'\n",
            [
                (
                    'c.yaml:6: recipients.delimiter: must be one character, such as ";" or "\\t" '
                    "in double quotes"
                )
            ],
        ),
        (
            "  id: customer_id\n",
            "  id: customer_id\n  rows: []\n",
            ["c.yaml:3: recipients: rows come without file, format and delimiter"],
        ),
        (
            "model: debug-diffusion\n",
            "model: debug-diffusion\nname: twice\n",
            ["c.yaml:3: name: is given twice; first on line 1"],
        ),
        (
            "steps: 8",
            "steps: !!bool maybe",
            ["c.yaml:10: creatives[0].steps: is no value of type bool"],
        ),
        (
            "name: Spring sale",
            "name: !!str {a: 1}",
            [
                "c.yaml:1: name: tag tag:yaml.org,2002:str is not accepted; write plain values",
                "c.yaml:1: name: Input should be a valid string",
            ],
        ),
        (
            "model: debug-diffusion",
            "model: !!python/name:os.system x",
            [
                (
                    "c.yaml:2: model: tag tag:yaml.org,2002:python/name:os.system is not accepted; "
                    "write plain values"
                )
            ],
        ),
    ],
)
def test_one_mistake(old: str, new: str, errors: list[str]) -> None:
    """Each mistake is one problem with file, line and field, and says what to do."""
    assert old in GOOD
    assert errors_of(GOOD.replace(old, new)) == errors


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "c.yaml: is empty"),
        ("# nothing\n", "c.yaml: is empty"),
        ("- a\n", "c.yaml:1: must be a mapping with name, recipients, ..."),
        ("just text", "c.yaml:1: must be a mapping with name, recipients, ..."),
        ("name: a\n\tmodel: b\n", "c.yaml:2: is not valid YAML: a tab; indent with spaces"),
        (
            "name: a\nmodel: b: c\n",
            "c.yaml:2: is not valid YAML: mapping values are not allowed here",
        ),
        (
            'name: "a\nmodel: b\n',
            (
                "c.yaml:3: is not valid YAML: found unexpected end of stream "
                "(while scanning a quoted scalar that starts on line 1)"
            ),
        ),
        (
            "a: &x [1]\nb: [*x, *x]\n",
            "c.yaml:2: is not valid YAML: alias *x is not accepted; repeat the value",
        ),
        ("name: a\nmodel: \x07\n", "c.yaml:2: character U+0007 is not allowed in YAML"),
        ("[" * 5000, "c.yaml: is nested too deeply"),
        ("name: a\n--- \nname: b\n", "c.yaml:2: is not valid YAML: but found another document"),
    ],
)
def test_not_a_campaign(text: str, error: str) -> None:
    """Text that is no YAML mapping is refused with the line where reading stopped."""
    assert errors_of(text)[0].startswith(error)


def test_all_mistakes_at_once() -> None:
    """Someone who mends a file sees all that is wrong with it, in the order of its lines."""
    text = """\
nmae: x
recipients:
  id: 5
  format: xml
creatives:
  - kind: image
    steps: many
    size: 1x
    promt: a mug
  - hero
"""
    assert errors_of(text) == [
        "c.yaml:1: name: is required",
        "c.yaml:1: nmae: unknown key; did you mean 'name'?",
        "c.yaml:3: recipients.id: Input should be a valid string",
        "c.yaml:4: recipients.format: Input should be 'csv' or 'jsonl'",
        "c.yaml:6: creatives[0].prompt: is required",
        "c.yaml:6: creatives[0].name: is required",
        (
            "c.yaml:7: creatives[0].steps: Input should be a valid integer, "
            "unable to parse string as an integer"
        ),
        "c.yaml:8: creatives[0].size: '1x' is not WIDTHxHEIGHT, for example 512x512",
        "c.yaml:9: creatives[0].promt: unknown key; did you mean 'prompt'?",
        "c.yaml:10: creatives[1]: Input should be a valid dictionary or instance of CreativeSpec",
    ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"prompt": ""}, "creatives[0].prompt: String should have at least 1 character"),
        ({"prompt": 5}, "creatives[0].prompt: Input should be a valid string"),
        ({"kind": ["image"]}, "creatives[0].kind: Input should be a valid string"),
        ({"file": "x"}, "creatives[0].file: unknown key; did you mean 'size'?"),
    ],
)
def test_bad_mapping(change: dict[str, Any], error: str) -> None:
    """The same campaign as JSON has no lines, only fields."""
    with pytest.raises(BadInputError) as caught:
        from_mapping(data(**change))
    assert str(caught.value) == error


@pytest.mark.parametrize("seed", ["per-recipient", "random", 0, 2**53 - 1])
def test_seed_rules(seed: str | int) -> None:
    """A seed is one of two rules or a number that JSON can carry."""
    assert from_mapping(data(seed=seed)).creatives[0].seed == seed


@pytest.mark.parametrize("seed", [True, -1, 2**53, 1.0, "7", None, [1]])
def test_bad_seeds(seed: object) -> None:
    """Anything else is no seed, not even what Python takes for a number."""
    with pytest.raises(BadInputError, match=r"creatives\[0\]\.seed: must be per-recipient"):
        from_mapping(data(seed=seed))


@pytest.mark.parametrize("count", [0, 51])
def test_number_of_creatives(count: int) -> None:
    """A campaign has 1 to 50 creatives."""
    creatives = [{"name": f"c{number}", "prompt": "x"} for number in range(count)]
    with pytest.raises(BadInputError, match="creatives: List should have at"):
        from_mapping({**data(), "creatives": creatives})


@pytest.mark.parametrize("name", ["2026-03-01", "12:30", "1:2:3.5"])
def test_dates_and_times_stay_text(name: str) -> None:
    """A name that YAML would take for a date or a time is a name."""
    assert parse_yaml(GOOD.replace("Spring sale", name), "c").name == name


def test_place_of_later_problems(tmp_path: Path) -> None:
    """A spec from a file knows the line of a field, or of the nearest field above it."""
    spec = parse_yaml(GOOD, "c.yaml")
    assert spec.place(Problem("m", field="creatives[0].size")).line == 9
    assert spec.place(Problem("m", field="creatives[1].size")).line == 12
    assert spec.place(Problem("m", field="x[")).line == 1
    assert from_mapping(data()).place(Problem("m", field="name")) == Problem("m", field="name")


@pytest.mark.parametrize(
    "given", ["2026-12-24", "2026-12-24T18:00", "soon", "1800000000", "'18:00+01:00'"]
)
def test_a_deadline_that_is_no_moment(given: str) -> None:
    """It is a time with its offset, and nothing that could be taken for another one."""
    [error] = errors_of(f"{GOOD}deadline: {given}\n")
    says = "must be a time with its offset from UTC, such as 2026-12-24T18:00:00+01:00"
    assert error == f"c.yaml:18: deadline: {says}"


@pytest.mark.parametrize("given", ["2026-12-24T18:00:00+01:00", "2026-12-24 17:00Z"])
def test_a_deadline(given: str) -> None:
    """It is the same moment, however it is written."""
    spec = parse_yaml(f"{GOOD}deadline: {given}\n", "c.yaml")
    assert spec.deadline == datetime(2026, 12, 24, 17, tzinfo=UTC)


def write(folder: Path, content: bytes) -> Path:
    """A campaign file with that content."""
    path = folder / "c.yaml"
    path.write_bytes(content)
    return path


def test_load(tmp_path: Path) -> None:
    """A file is read with or without a byte order mark."""
    loaded = load(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()))
    assert loaded.model_dump() == parse_yaml(GOOD, "c.yaml").model_dump()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"name: a\nmodel: \xe9\n", "c.yaml:2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (GOOD.encode("utf-16"), "c.yaml:1: is UTF-16; save it as UTF-8 (in Excel: 'CSV UTF-8')"),
        (b"#" * 1024 * 1025, "c.yaml: is larger than 1024 KiB; recipients go in a file"),
        (
            GOOD.replace("  file: recipients.csv\n", "").encode(),
            "c.yaml:3: recipients.file: is required",
        ),
    ],
)
def test_bad_content(tmp_path: Path, content: bytes, error: str) -> None:
    """What is not a text of bounded size with a recipients file is refused."""
    with pytest.raises(BadInputError) as caught:
        load(write(tmp_path, content))
    assert str(caught.value) == f"{tmp_path}/{error}"


def test_unreadable(tmp_path: Path) -> None:
    """A file that is not there is a mistake of the caller, not a crash."""
    with pytest.raises(BadInputError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml")
