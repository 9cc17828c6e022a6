"""A schedule as it is written: YAML or JSON into a `ScheduleSpec`, each problem with its place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from jobs.campaigns import document
from jobs.campaigns import file as campaign_file
from jobs.campaigns.document import Marks
from jobs.campaigns.file import CampaignSpec, Text
from jobs.problems import BadInputError, Problem, from_validation
from jobs.schedules.definition import CatchUp, Overlap
from jobs.schedules.times import Late, check_cron, zone

MAX_BLACKOUT_DATES = 1000

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class ScheduleFields(BaseModel):
    """What a schedule says about itself, apart from its campaign."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    cron: Annotated[str, Field(max_length=200, description="Five fields.", examples=["30 1 * * *"])]
    timezone: Annotated[str, Field(examples=["Europe/Berlin"])]
    window: Annotated[
        str | None, Field(description="Local times between which jobs start: 01:00-06:00.")
    ] = None
    late: Annotated[
        Late, Field(description="What jobs do that have not started by the window's end.")
    ] = "wait"
    blackout_dates: Annotated[
        list[str],
        Field(max_length=MAX_BLACKOUT_DATES, description="Local dates without runs or windows."),
    ] = []
    catch_up: Annotated[
        CatchUp, Field(description="Which of the runs that an outage kept back are made up for.")
    ] = "once"
    overlap: Annotated[
        Overlap, Field(description="What a run does while an earlier one is not over.")
    ] = "queue"
    campaign: Any

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, line: str) -> str:
        check_cron(line)
        return line

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        zone(name)
        return name

    @field_validator("window")
    @classmethod
    def _check_window(cls, window: str | None) -> str | None:
        if window is None:
            return None
        if not _WINDOW.fullmatch(window):
            raise ValueError("must be two times of the day such as 01:00-06:00")
        start, end = window.split("-")
        if start == end:
            raise ValueError("never closes; without a window, jobs start at any time")
        return window

    @field_validator("blackout_dates")
    @classmethod
    def _check_dates(cls, dates: list[str]) -> list[str]:
        try:
            return sorted({date.fromisoformat(day).isoformat() for day in dates})
        except ValueError as error:
            raise ValueError("must be dates such as 2026-12-25") from error


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule whose every field is right in itself; the models it names are not looked at."""

    fields: ScheduleFields
    campaign: CampaignSpec

    @property
    def definition(self) -> dict[str, Any]:
        """What `storage.schedules.DEFINITION` names."""
        return {
            **self.fields.model_dump(exclude={"name", "campaign"}),
            "campaign": self.campaign.model_dump(mode="json", exclude_unset=True),
        }


def load(path: Path) -> ScheduleSpec:
    """The schedule in a YAML file; its campaign may be a file of its own, named relative to it.

    Raises:
        BadInputError: a file cannot be read, or what is wrong in it, all at once.
    """
    data, marks, problems = document.read_yaml(document.read_file(path), str(path))
    try:
        spec = from_mapping(data, marks, path.parent)
    except BadInputError as error:
        problems.extend(error.problems)
    if problems:
        raise BadInputError(*document.by_line(problems))
    return spec


def from_mapping(
    data: object, marks: Marks | None = None, folder: Path | None = None
) -> ScheduleSpec:
    """The schedule in the form that JSON gives; ``folder`` is where it may name files.

    Raises:
        BadInputError: all that is wrong, with dotted fields, and lines as far as ``marks`` knows.
    """
    marks = marks or Marks()
    if not isinstance(data, dict):
        raise BadInputError(marks.place(Problem("must be a mapping with name, cron, ...")))
    problems: list[Problem] = []
    try:
        fields = ScheduleFields.model_validate(data)
    except ValidationError as error:
        problems += map(marks.place, from_validation(error, ScheduleFields))
    try:
        campaign = _campaign(data, marks, folder)
    except BadInputError as error:
        problems += error.problems
    if problems:
        raise BadInputError(*problems)
    assert campaign is not None
    return ScheduleSpec(fields, campaign)


def _campaign(data: Mapping[str, Any], marks: Marks, folder: Path | None) -> CampaignSpec | None:
    """None: there is none, which has been said."""
    given = data.get("campaign")
    if "campaign" not in data:
        return None
    if isinstance(given, str) and folder is not None:
        spec = campaign_file.load(folder / given)
    elif isinstance(given, dict):
        within = Marks(marks.file, marks.lines, prefix="campaign")
        spec = campaign_file.from_mapping(given, within)
    else:
        message = "must be a campaign" + (", or the name of its file" if folder else "")
        raise BadInputError(marks.place(Problem(message, field="campaign")))
    if spec.deadline is not None:
        message = "is for one campaign; a schedule has a window, with late: expire"
        raise BadInputError(spec.place(Problem(message, field="deadline")))
    recipients = spec.recipients
    if recipients.file is not None:
        message = (
            "is not there when a schedule runs; put it into the bucket (`presswork file put`)"
            " and name it with recipients.bucket, or give rows"
        )
        raise BadInputError(spec.place(Problem(message, field="recipients.file")))
    if recipients.bucket is None and recipients.rows is None:
        message = "name a file in the bucket, or give rows"
        raise BadInputError(spec.place(Problem(message, field="recipients")))
    return spec
