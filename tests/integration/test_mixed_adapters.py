"""Jobs with different adapters in one batch, from their submission to what is kept of them."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from jobs.registry import adding
from jobs.registry.specs import ModelSpec
from jobs.services import Services
from storage.models import BUILT_IN
from tests.integration.batches import jobs, submit
from tests.model_trees import tensors
from workers.files import files_of
from workers.runner import Runner

DEBUG = BUILT_IN["debug-diffusion"]
FITS = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


# diffusers 0.42 hands torch tensors to numpy 2 in its schedulers.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_one_batch(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Each output names its own adapter; one that cannot be used fails its own jobs alone."""
    files = files_of(DEBUG, tmp_path_factory.getbasetemp() / "cache")
    _add(services, "mine", files)
    for name, layer in {"glow": FITS, "matte": FITS, "wrong": "unet.x", "ended": FITS}.items():
        shapes = {f"{layer}.lora_A.weight": (4, 64), f"{layer}.lora_B.weight": (64, 4)}
        folder = tensors(tmp_path_factory.mktemp(name) / "lora.safetensors", shapes).parent
        _add(services, name, folder, adapter_for="mine")
    used = [("glow", 1.0), ("wrong", 1.0), ("matte", 0.5), ("ended", 1.0), ("glow", -1.0)]
    ids = submit(
        services,
        tenant_id,
        *(
            {
                "prompt": "a mug",
                "model": "mine",
                "steps": 1,
                "seed": 1,
                "adapters": [{"name": name, "weight": weight}],
            }
            for name, weight in used
        ),
    )
    with engine.begin() as connection:
        ended = text("UPDATE models SET licence_until = '2020-02-29' WHERE name = 'ended'")
        connection.execute(ended)
    runner = make_runner()
    assert runner.run_next()
    assert not runner.run_next()  # it was one batch
    found = jobs(engine)
    assert [found[id_] for id_ in ids] == [
        ("succeeded", 1, None),
        ("failed", 1, "adapter_does_not_fit"),
        ("succeeded", 1, None),
        ("failed", 1, "licence_ended"),
        ("succeeded", 1, None),
    ]
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT job_id, facts FROM artifacts")).all()
    made = {row.job_id: row.facts["adapters"] for row in rows}
    named = {
        id_: {identity.partition("@")[0]: weight for identity, weight in adapters.items()}
        for id_, adapters in made.items()
    }
    assert named == {ids[0]: {"glow": 1.0}, ids[2]: {"matte": 0.5}, ids[4]: {"glow": -1.0}}


def _add(services: Services, name: str, folder: Path, **fields: object) -> None:
    given = {"name": name, "source": f"dir:{folder}", "licence": "MIT", "size": "64x64"}
    adding.add(services, ModelSpec.model_validate({**given, **fields}))
