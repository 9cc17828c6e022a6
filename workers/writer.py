"""Stores outputs in the bucket, several at a time, with patience while it is away."""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID

from storage.ledger.finish import NewArtifact
from storage.objects import ObjectStore, ObjectStoreError, artifact_key, sha256_hex
from workers.family import Output
from workers.stopping import wait

_log = logging.getLogger(__name__)

UPLOADS = 4
PATIENCE_S = 60
"""How long finished work is kept for a bucket that does not answer, while its lease is renewed."""


class Writer:
    """Uploads in threads of its own. ``made_by`` is added to the facts of every artifact."""

    def __init__(
        self, objects: ObjectStore, made_by: Mapping[str, Any], stopping: Callable[[], bool]
    ) -> None:
        self._objects = objects
        self._made_by = made_by
        self._stopping = stopping
        self._threads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")

    def store(
        self, claim_id: UUID, job_id: UUID, outputs: Sequence[Output]
    ) -> "Future[list[NewArtifact]]":
        """Start storing; the result raises `ObjectStoreError` when patience is at its end."""
        return self._threads.submit(self._store, claim_id, job_id, outputs)

    def close(self) -> None:
        """Wait for the threads."""
        self._threads.shutdown()

    def _store(self, claim_id: UUID, job_id: UUID, outputs: Sequence[Output]) -> list[NewArtifact]:
        artifacts = []
        for index, output in enumerate(outputs):
            digest = sha256_hex(output.data)
            key = artifact_key(claim_id, job_id, index, digest, output.media_type)
            self._put(key, output)
            facts = {**output.facts, **self._made_by}
            size = len(output.data)
            artifacts.append(NewArtifact(key, output.media_type, digest, size, facts))
        return artifacts

    def _put(self, key: str, output: Output) -> None:
        deadline = time.monotonic() + PATIENCE_S
        wait_s = 0.5
        while True:
            try:
                self._objects.put(key, output.data, output.media_type)
            except ObjectStoreError as error:
                if self._stopping() or time.monotonic() > deadline:
                    raise
                _log.warning("%s is not stored yet: %s", key, error)
            else:
                return
            wait(wait_s * random.uniform(0.5, 1.0), self._stopping)  # noqa: S311
            wait_s = min(wait_s * 2, 10)
