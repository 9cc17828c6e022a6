"""Schedule files: what is wrong is named with file, line and field."""

import re
from pathlib import Path

import pytest

from jobs.campaigns import document
from jobs.problems import BadInputError
from jobs.schedules import file as schedule_file
from jobs.schedules.definition import Definition
from jobs.schedules.file import ScheduleSpec

GOOD = """\
name: nightly
cron: "30 1 * * *"
timezone: Europe/Berlin
window: 01:00-06:00
late: expire
blackout_dates: [2026-12-25, 2026-12-24]
catch_up: all
overlap: skip
campaign:
  name: Mugs
  recipients:
    bucket: lists/{date}.csv
    id: id
  creatives:
    - name: hero
      prompt: a {{ product }}
      size: 64x64
"""


def load(tmp_path: Path, text: str) -> ScheduleSpec:
    """The schedule in a file of that text."""
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return schedule_file.load(path)


def errors(tmp_path: Path, text: str) -> list[str]:
    """What is wrong with a file, its folder left out."""
    with pytest.raises(BadInputError) as caught:
        load(tmp_path, text)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_a_good_file(tmp_path: Path) -> None:
    """Every field arrives, times and dates as they are written."""
    spec = load(tmp_path, GOOD)
    assert spec.fields.name == "nightly"
    assert spec.definition == {
        "cron": "30 1 * * *",
        "timezone": "Europe/Berlin",
        "window": "01:00-06:00",
        "late": "expire",
        "blackout_dates": ["2026-12-24", "2026-12-25"],
        "catch_up": "all",
        "overlap": "skip",
        "campaign": {
            "name": "Mugs",
            "recipients": {"bucket": "lists/{date}.csv", "id": "id"},
            "creatives": [{"name": "hero", "prompt": "a {{ product }}", "size": "64x64"}],
        },
    }
    window = Definition.of(spec.definition).window
    assert window is not None
    assert (window.start.hour, window.end.hour, window.late) == (1, 6, "expire")


def test_what_is_left_out(tmp_path: Path) -> None:
    """The defaults lose nothing: late work waits, one run is made up for, runs take turns."""
    kept = re.sub(r"(window|late|blackout_dates|catch_up|overlap): .*\n", "", GOOD)
    definition = load(tmp_path, kept).definition
    assert (definition["window"], definition["late"], definition["blackout_dates"]) == (
        None,
        "wait",
        [],
    )
    assert (definition["catch_up"], definition["overlap"]) == ("once", "queue")
    assert Definition.of(definition).window is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cron:", "corn:", ["s.yaml:1: cron: is required", "2: corn: unknown key; did you mean"]),
        ("30 1 * * *", "30 1 * *", ["s.yaml:2: cron: has 4 fields, not five"]),
        ("30 1", "30 25", ["s.yaml:2: cron: bad hour; the fields are"]),
        ("Europe/Berlin", "Berlin", ["s.yaml:3: timezone: unknown time zone 'Berlin'; did you"]),
        ("01:00-06:00", "1-6", ["s.yaml:4: window: must be two times of the day such as"]),
        ("01:00-06:00", "01:00-24:00", ["s.yaml:4: window: must be two times of the day"]),
        ("01:00-06:00", "01:00-01:00", ["s.yaml:4: window: never closes; without a window"]),
        ("expire", "drop", ["s.yaml:5: late: Input should be 'wait' or 'expire'"]),
        ("2026-12-24", "2026-12-32", ["s.yaml:6: blackout_dates: must be dates such as"]),
        ("all", "always", ["s.yaml:7: catch_up: Input should be 'skip', 'once' or 'all'"]),
        ("skip", "stop", ["s.yaml:8: overlap: Input should be 'skip', 'queue' or 'allow'"]),
        ("size: 64", "sice: 64", ["s.yaml:17: campaign.creatives[0].sice: unknown key; did"]),
        ("    id: id\n", "", ["s.yaml:11: campaign.recipients.id: is required"]),
        (
            "bucket: lists/{date}.csv",
            "bucket: ../a.csv",
            ["s.yaml:12: campaign.recipients.bucket: "],
        ),
        (
            "bucket: lists/{date}.csv",
            "file: list.csv",
            ["s.yaml:12: campaign.recipients.file: is not there when a schedule runs; put it into"],
        ),
        (
            "  recipients:\n",
            "  deadline: 2026-12-24T18:00Z\n  recipients:\n",
            ["s.yaml:11: campaign.deadline: is for one campaign; a schedule has a window"],
        ),
        (
            "    bucket: lists/{date}.csv\n",
            "",
            ["s.yaml:11: campaign.recipients: name a file in the bucket, or give rows"],
        ),
        (
            "bucket: lists/{date}.csv",
            "bucket: a.csv\n    rows: []",
            ["s.yaml:11: campaign.recipients: give a key in the bucket, a file or rows"],
        ),
        (GOOD[GOOD.index("campaign:") :], "", ["s.yaml:1: campaign: is required"]),
        (GOOD[GOOD.index("campaign:") :], "campaign: 7\n", ["s.yaml:9: campaign: must be a camp"]),
        (GOOD, "- 1\n", ["s.yaml:1: must be a mapping with name, cron"]),
        (GOOD, "name: [", ["s.yaml:1: is not valid YAML"]),
    ],
)
def test_one_mistake(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    """Each mistake is one problem with file, line and field, and says what to do."""
    assert old in GOOD
    found = errors(tmp_path, GOOD.replace(old, new))
    assert len(found) == len(expected)
    assert all(part in problem for part, problem in zip(expected, found, strict=True))


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """The schedule's and its campaign's problems come together, in the order of the lines."""
    text = GOOD.replace("30 1", "70 1").replace("bucket: lists/{date}", "bucket: /{date}")
    found = errors(tmp_path, text.replace("size: 64x64", "size: 64"))
    assert [problem.split(": ")[0] for problem in found] == ["s.yaml:2", "s.yaml:12", "s.yaml:17"]


def test_a_campaign_of_its_own_file(tmp_path: Path) -> None:
    """A campaign may be the name of its file, whose mistakes are named as its own."""
    inline = GOOD[GOOD.index("campaign:\n") + len("campaign:\n") :]
    (tmp_path / "c.yaml").write_text(re.sub(r"^  ", "", inline, flags=re.MULTILINE))
    text = GOOD.replace("campaign:\n" + inline, "campaign: c.yaml\n")
    assert load(tmp_path, text).definition == load(tmp_path, GOOD).definition
    (tmp_path / "c.yaml").write_text("name: Mugs\nrecipients: {id: id, file: a.csv}\n")
    assert errors(tmp_path, text) == ["c.yaml:1: creatives: is required"]
    assert errors(tmp_path, text.replace("c.yaml", "d.yaml")) == [
        "d.yaml: cannot be read: No such file or directory"
    ]


def test_over_http_there_are_no_files() -> None:
    """JSON must hold the campaign itself; its problems have fields and no lines."""
    data, _, _ = document.read_yaml(GOOD.replace("size: 64x64", "size: 64"), "x")
    with pytest.raises(BadInputError) as caught:
        schedule_file.from_mapping(data)
    assert [(item.field, item.line) for item in caught.value.problems] == [
        ("campaign.creatives[0].size", None)
    ]
    assert isinstance(data, dict)
    with pytest.raises(BadInputError, match=r"campaign: must be a campaign$"):
        schedule_file.from_mapping({**data, "campaign": "c.yaml"})
