"""What several of the integration tests ask for."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine

from jobs.services import Services

if TYPE_CHECKING:
    from workers.runner import Runner


@pytest.fixture
def make_runner(services: Services, engine: Engine) -> "Iterator[Callable[..., Runner]]":
    """Runners on the test's services."""
    from tests.integration.batches import runners  # noqa: PLC0415 (torch, for who asks for it)

    with runners(services, engine) as make:
        yield make
