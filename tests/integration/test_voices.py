"""A LoRA for a language model, from a dataset of text to jobs that are written with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from jobs.datasets import keeping, reading
from jobs.datasets.definition import DatasetSpec
from jobs.services import Services
from jobs.submissions import JobSubmission, submit_job
from storage import models
from tests.integration.batches import jobs
from workers.runner import Runner

FINETUNE: dict[str, Any] = {
    "name": "voice",
    "model": "debug-lm",
    "dataset": "ahoy",
    "steps": 4,
    "learning_rate": 0.1,
    "rank": 4,
    "held_out": 0.1,
    "evaluate_every": 2,
    "sample_every": 4,
    "sample_prompts": ["Sell a hat."],
    "seed": 7,
}


def test_a_voice_is_learnt_and_used(
    services: Services,
    tenant_id: UUID,
    engine: Engine,
    make_runner: Callable[..., Runner],
    tmp_path: Path,
) -> None:
    """Jobs name it as soon as it is made; those with it are no batch of those without."""
    file = tmp_path / "ahoy.jsonl"
    lines = [{"prompt": f"Sell {n} mugs.", "completion": f"Ahoy! {n} mugs!"} for n in range(10)]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    spec = DatasetSpec(name="ahoy", licence="MIT", consent="no person is named")
    with reading.opened(services, tenant_id, f"jsonl:{file}") as material:
        keeping.add(services, tenant_id, spec, material)
    made = submit_job(services, tenant_id, JobSubmission(kind="finetune", request=FINETUNE))
    runner = make_runner()
    assert runner.run_next()
    assert jobs(engine)[made] == ("succeeded", 1, None)
    with engine.begin() as connection:
        card = models.find(connection, "default/voice")
    assert card
    assert (card.base, card.family, card.details["bank"]) == ("debug-lm", "causal_lm", False)
    assert set(card.manifest or {}) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    plain = {"text": "Sell a hat.", "model": "debug-lm", "max_tokens": 8}
    worn = {**plain, "adapters": [{"name": "default/voice"}]}
    for request in (plain, worn):
        submit_job(services, tenant_id, JobSubmission(kind="text", request=request))
    assert runner.run_next()
    assert runner.run_next()
    assert {job[0] for job in jobs(engine).values()} == {"succeeded"}
