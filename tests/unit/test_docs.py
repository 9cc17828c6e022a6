"""The docs say what the code does."""

import json
import re
from pathlib import Path

import pytest

from jobs.campaigns import file as campaign_file
from jobs.campaigns.creatives import compile_campaign
from jobs.datasets import texts
from jobs.datasets.definition import DatasetSpec
from jobs.schedules import file as schedule_file
from jobs.schedules.file import ScheduleFields
from jobs.settings import Settings
from storage.lifecycle import TRANSITIONS, JobStatus
from storage.models import BUILT_IN
from tests.faults import report
from tests.faults.cases import ALL, WITH_OWN_HOUSE

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under the header row that starts with ``heading``."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_lifecycle_page() -> None:
    """The table of transitions is the code's, no more and no less."""
    written = {(JobStatus(row[0]), JobStatus(row[1])) for row in rows("lifecycle.md", "from")}
    coded = {(before, after) for before, afters in TRANSITIONS.items() for after in afters}
    assert written == coded


def test_lifecycle_page_names_functions_that_exist() -> None:
    """Each transition's function is where the table says."""
    for row in rows("lifecycle.md", "from"):
        for module, function in re.findall(r"`(\w+)\.(\w+)`", row[2]):
            source = (ROOT / "storage" / "ledger" / f"{module}.py").read_text(encoding="utf-8")
            assert f"\ndef {function}(" in source


def test_settings_page() -> None:
    """Every setting is in the table, with its default."""
    table = {
        name: row[1].strip("`")
        for row in rows("operations.md", "setting")
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert table.keys() == Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float | str):
            assert table[name] == str(field.default)


def test_campaign_page(tmp_path: Path) -> None:
    """The campaign file in the docs is one that Presswork takes."""
    page = (ROOT / "docs" / "campaigns.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    spec = campaign_file.parse_yaml(example, "campaign.yaml")
    assert [creative.creative.name for creative in compile_campaign(spec, BUILT_IN)] == ["hero"]


def test_schedules_page(tmp_path: Path) -> None:
    """The schedule in the docs is one that Presswork takes, with the defaults that it says."""
    page = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    path = tmp_path / "nightly.yaml"
    path.write_text(example, encoding="utf-8")
    fields = schedule_file.load(path).fields
    for name in ("late", "catch_up", "overlap"):
        assert getattr(fields, name) == ScheduleFields.model_fields[name].default


def test_datasets_page() -> None:
    """The texts in the docs are taken, and every option is in the table."""
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    pair, chat = map(json.loads, re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL))
    texts.Pair.model_validate(pair)
    texts.Chat.model_validate(chat)
    table = {row[0].strip("`-").replace("-", "_") for row in rows("datasets.md", "option")}
    assert table == {"source", *DatasetSpec.model_fields} - {"name"}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_paths_in_docs_exist(page: Path) -> None:
    """Every link and every path in backquotes leads somewhere."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert all((page.parent / link).exists() for link in links)
    paths = re.findall(r"[`>]((?:storage|jobs|workers|tests|examples|docs)/[\w/.-]*)[`<]", text)
    real = [path for path in paths if "NAME" not in path]
    assert [path for path in real if not (ROOT / path).exists()] == []


def test_faults_page() -> None:
    """The published table is the published report's, and covers every case there is."""
    published = json.loads((ROOT / "docs" / "faults-report.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert report.table(published["cases"]) in page
    assert published["problems"] == []
    assert {case["name"] for case in published["cases"]} >= {*ALL, *WITH_OWN_HOUSE}
