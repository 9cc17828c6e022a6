"""Pictures of the debug model, compiled and eager."""

from uuid import uuid4

import pytest

from jobs.kinds import KINDS
from storage.models import BUILT_IN
from tests.contracts import media
from workers.compiled import Compiler
from workers.families.diffusion import Diffusion
from workers.families.diffusion.load import Loaded
from workers.family import Device, Item, Output
from workers.files import files_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILY = Diffusion()
CARD = BUILT_IN["debug-diffusion"]
WAIT_S = 600


class Ear:
    """A context that hears nothing."""

    def step(self, done: int, total: int) -> None:
        """Go on."""


def items(count: int) -> list[Item]:
    """Small pictures that share a batch."""
    kind = KINDS["image"]
    made = []
    for seed in range(count):
        fields = {"model": CARD.name, "prompt": f"mug {seed}", "size": "64x64", "steps": 3}
        request = kind.Request.model_validate({**fields, "seed": seed})
        made.append(Item(uuid4(), kind.resolve(request, CARD)))
    return made


def pictures(model: Loaded, count: int) -> list[Output]:
    """The picture of each seed."""
    made = dict(FAMILY.generate(model, items(count), Ear()))
    outputs = [made[index] for index in range(count)]
    assert all(isinstance(output, list) for output in outputs)
    return [output[0] for output in outputs if isinstance(output, list)]


def test_compiled_is_as_eager(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seed gives the same picture once its size is compiled, to 1/255 in fp32."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # which the compiler sets
    files = files_of(CARD, tmp_path_factory.getbasetemp() / "cache")
    compiler = Compiler()
    try:
        model = FAMILY.load(files, CARD, Device("cpu", compiler=compiler))
        eager = pictures(model, 2)
        assert compiler.wait(0)  # not worth it yet, but for who knows that there will be more:
        FAMILY.warm(model, items(2))
        assert compiler.wait(WAIT_S)
        before = compiler.counters
        compiled = pictures(model, 2)
        # Each step of the denoiser; the picture is decoded eager, once.
        assert compiler.counters["eager_fallbacks"] == before["eager_fallbacks"] + 1
        assert (before["compiles"], before["compile_failures"]) == (1, 0)
    finally:
        compiler.close()
    for one, other in zip(eager, compiled, strict=True):
        assert media.difference(one, other) <= round(FAMILY.tolerance, 6)
