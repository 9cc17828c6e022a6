"""The house in which every fault of the short form happens."""

from collections.abc import Iterator

import pytest

from tests.faults.house import House


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Workers, sweepers and an API on servers of their own."""
    with House(tmp_path_factory.mktemp("house")) as running:
        yield running
