"""The tiny pipelines, each loaded once for all tests."""

import pytest

from tests.contracts import tiny_pipelines
from tests.contracts.pictures import FAMILY, Models, card_of
from workers.families.diffusion.load import Loaded
from workers.family import Device


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Models by the name of their pipeline class, each from a saved directory."""
    loaded: dict[str, Loaded] = {}

    def get(name: str) -> Loaded:
        if name not in loaded:
            files = tiny_pipelines.save(name, tmp_path_factory.mktemp(name))
            loaded[name] = FAMILY.load(files, card_of(name), Device("cpu"))
        return loaded[name]

    return get
