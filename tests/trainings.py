"""What tests of trainings share: a dataset, and requests that a CPU makes in seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from jobs.datasets import keeping, reading
from jobs.datasets.definition import DatasetSpec
from jobs.services import Services
from tests.dataset_files import imagefolder

DATASET = "things"

SCRATCH: Mapping[str, Any] = {
    "name": "tiny",
    "dataset": DATASET,
    "size": "32x32",
    "steps": 4,
    "batch": 4,
    "checkpoint_every": 2,
    "seed": 7,
    "ema": 0.9,
    "architecture": {
        "type": "text-to-image",
        "autoencoder": {"width": 8, "steps": 4, "batch": 4, "crop_px": 16, "latent_channels": 4},
        "text_encoder": {"width": 16, "heads": 2, "layers": 1, "vocabulary": 520, "max_tokens": 8},
        "denoiser": {"widths": [16, 32], "heads": [1, 2]},
        "bank": 8,
    },
}
"""A text-to-image pipeline: two steps of each of its parts between two checkpoints."""


def add_dataset(services: Services, tenant_id: UUID, folder: Path, name: str = DATASET) -> None:
    """Register an imagefolder of a few pictures."""
    for file, body in imagefolder(6).items():
        (folder / file).write_bytes(body)
    spec = DatasetSpec(name=name, licence="MIT", consent="no person is shown")
    with reading.opened(services, tenant_id, f"dir:{folder}") as material:
        keeping.add(services, tenant_id, spec, material)
