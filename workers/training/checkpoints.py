"""Checkpoints of trainings: safetensors and JSON in the bucket, whole or not there at all."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from storage.objects import ObjectMissingError, ObjectStore, training_prefix

_log = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints of a job that are kept: the last one, and one more in case that it is damaged."""
FORMAT = 1
MANIFEST = "checkpoint.json"
_STATE = "state.json"
_TENSORS = "{name}.safetensors"


class CheckpointError(ValueError):
    """What was made so far cannot be read any more; to begin anew unasked would waste a device."""


@dataclass(frozen=True)
class Checkpoint:
    """What a training is after ``step`` steps: its learners' tensors by name, and all else."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of a job, written under a claim, read whoever wrote them.

    Each lies below a prefix of its own, its manifest written last and naming every other file
    with its sha256: what has no manifest is no checkpoint. A claim that was lost writes beside the
    one that has it now; of the same step both are the same, bit by bit.
    """

    def __init__(self, objects: ObjectStore, job_id: UUID, claim_id: UUID) -> None:
        self._objects = objects
        self._prefix = f"{training_prefix(job_id)}checkpoints/"
        self._claim_id = claim_id

    def save(self, checkpoint: Checkpoint) -> None:
        """Store it, and delete those before the last `KEPT`; ObjectStoreError: it is not stored."""
        prefix = f"{self._prefix}{checkpoint.step:09d}-{self._claim_id}/"
        manifest = {}
        with tempfile.TemporaryDirectory(prefix="presswork-checkpoint-") as scratch:
            folder = Path(scratch)
            for name, tensors in checkpoint.tensors.items():
                save_file(dict(tensors), folder / _TENSORS.format(name=name))
            state = {"format": FORMAT, "step": checkpoint.step, **checkpoint.state}
            (folder / _STATE).write_text(json.dumps(state), encoding="utf-8")
            for path in sorted(folder.iterdir()):
                with path.open("rb") as file:
                    manifest[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
                    file.seek(0)
                    self._objects.put_file(prefix + path.name, file)
        body = json.dumps({"format": FORMAT, "files": manifest}).encode()
        self._objects.put(prefix + MANIFEST, body, "application/json")
        self._forget()

    def latest(self) -> Checkpoint | None:
        """The last one that is whole; None: there is none.

        Raises:
            CheckpointError: there are some, and none of them can be read.
        """
        prefixes = self._whole()
        for prefix in prefixes:
            try:
                return self._read(prefix)
            except (ObjectMissingError, SafetensorError, KeyError, TypeError, ValueError) as error:
                _log.warning("checkpoint %s cannot be read: %s", prefix, error)
        if prefixes:
            raise CheckpointError(
                f"none of its {len(prefixes)} checkpoints can be read: begin it anew, by another "
                "name"
            )
        return None

    def _read(self, prefix: str) -> Checkpoint:
        manifest = json.loads(self._objects.get(prefix + MANIFEST))
        if manifest["format"] != FORMAT:
            raise ValueError(f"it has format {manifest['format']}, not {FORMAT}")
        tensors = {}
        state: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix="presswork-checkpoint-") as scratch:
            for name, sha256 in manifest["files"].items():
                path = Path(scratch, Path(name).name)
                with self._objects.open(prefix + name) as found, path.open("w+b") as file:
                    while chunk := found.stream.read(1024 * 1024):
                        file.write(chunk)
                    file.seek(0)
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        raise ValueError(f"{name} has other bytes than were written")
                if name == _STATE:
                    state = json.loads(path.read_bytes())
                else:
                    tensors[path.stem] = load_file(path)
        step = state.pop("step")
        return Checkpoint(step, tensors, state)

    def _whole(self) -> list[str]:
        """The prefixes of those with a manifest, the last step first."""
        return _prefixes(self._objects.keys(self._prefix))

    def _forget(self) -> None:
        """Delete those before the last ones, and what was left of uploads that did not end."""
        keys = list(self._objects.keys(self._prefix))
        kept = _prefixes(keys)[:KEPT]
        # What lies behind the last one may be on its way, by a claim that was lost.
        old = [key for key in keys if key < kept[0] and not key.startswith(tuple(kept))]
        # The manifests first: without it, what is left of one is no checkpoint.
        old.sort(key=lambda key: not key.endswith(MANIFEST))
        for start in range(0, len(old), 1000):
            self._objects.delete(old[start : start + 1000])


def _prefixes(keys: Iterable[str]) -> list[str]:
    found = [key for key in keys if key.endswith(f"/{MANIFEST}")]
    return [key.removesuffix(MANIFEST) for key in sorted(found, reverse=True)]
