"""What a session on the database is like."""

import pytest

from jobs.settings import Settings
from tests.integration.ledger_cases import value


@pytest.mark.parametrize(("keep_plans", "mode"), [(False, "force_custom_plan"), (True, "auto")])
def test_who_keeps_plans(settings: Settings, *, keep_plans: bool, mode: str) -> None:
    """Only who asks for it does: a plan from when a table was empty is bad once it is full."""
    engine = settings.engine("presswork tests", keep_plans=keep_plans)
    try:
        assert value(engine, "SHOW plan_cache_mode") == mode
        assert value(engine, "SHOW timezone") == "UTC"
    finally:
        engine.dispose()
