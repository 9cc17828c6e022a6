"""The page on performance says what the roofline's arithmetic gives."""

from benchmarks import roofline
from tests.unit.test_docs import ROOT


def test_the_page_has_the_tables() -> None:
    """Both of them, to the last digit."""
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for table in roofline.tables():
        assert table in page
