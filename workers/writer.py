"""Stores outputs in the bucket, several at a time, with patience while it is away."""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from typing import Any
from uuid import UUID

from storage.ledger.finish import NewArtifact
from storage.objects import (
    ClockSkewError,
    ObjectStore,
    ObjectStoreError,
    artifact_key,
    sha256_hex,
)
from workers.family import Output
from workers.stopping import LOOK_S, wait

_log = logging.getLogger(__name__)

UPLOADS = 4
PATIENCE_S = 60
"""How long finished work is kept for a bucket that does not answer, while its lease is renewed."""
TRIES = 2
"""By the client, at once, in case that a connection was stale; whoever has patience tries again."""
CLAIMS = 8
"""More than a worker stores the outputs of at a time."""
STOP_S = 1.5
"""How long uploads may still take once it is time to stop; what is not stored by then goes back."""


Upload = Future[list[NewArtifact]]
"""Outputs of a job on their way to the bucket."""


class Writer:
    """Encodes, hashes and uploads in threads of its own.

    ``made_by`` is added to the facts of every artifact.
    """

    def __init__(
        self, objects: ObjectStore, made_by: Mapping[str, Any], stopping: Callable[[], bool]
    ) -> None:
        self._objects = replace(objects, tries=TRIES)
        self._made_by = made_by
        self._stopping = stopping
        self._stop_by: float | None = None
        # Replaced as a whole, by whichever thread.
        self._given_up: tuple[UUID, ...] = ()
        self._away = False
        self._noting = threading.Lock()
        self._threads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")

    def store(
        self, claim_id: UUID, job_id: UUID, outputs: Sequence[Output], facts: Mapping[str, Any]
    ) -> Upload:
        """Start storing; `result` waits for it. ``facts`` are those of all of the outputs."""
        return self._threads.submit(self._store, claim_id, job_id, outputs, facts)

    def result(self, upload: Upload) -> list[NewArtifact]:
        """What was stored.

        Raises:
            ObjectStoreError: patience is at its end, or it is time to stop.
        """
        while not upload.done():
            if self._stopping():
                self._stop_by = self._stop_by or time.monotonic() + STOP_S
                if time.monotonic() > self._stop_by:
                    # It may be stored yet. Then it is an orphan, which is looked for.
                    raise ObjectStoreError("not stored in the time that is left before the stop")
            wait_for([upload], LOOK_S)
        return upload.result()

    def close(self) -> None:
        """End, without waiting for an upload that nobody waits for."""
        self._threads.shutdown(wait=not self._stopping(), cancel_futures=True)

    def _store(
        self, claim_id: UUID, job_id: UUID, outputs: Sequence[Output], shared: Mapping[str, Any]
    ) -> list[NewArtifact]:
        artifacts = []
        for index, output in enumerate(outputs):
            digest = sha256_hex(output.data)
            key = artifact_key(claim_id, job_id, index, digest, output.media_type)
            self._put(claim_id, key, output)
            facts = {**shared, **output.facts, **self._made_by}
            size = len(output.data)
            artifacts.append(NewArtifact(key, output.media_type, digest, size, facts))
        return artifacts

    def _put(self, claim_id: UUID, key: str, output: Output) -> None:
        deadline = time.monotonic() + PATIENCE_S
        wait_s = 0.5
        while True:
            if claim_id in self._given_up:
                # Or each of a large batch's outputs would be waited for in its turn.
                raise ObjectStoreError("patience with the bucket is at its end for this batch")
            try:
                self._objects.put(key, output.data, output.media_type)
            except ClockSkewError:
                raise
            except ObjectStoreError as error:
                self._note(error)
                if time.monotonic() > deadline:
                    self._give_up(claim_id)
                    raise
                if self._stopping():
                    raise
            else:
                self._note(None)
                return
            wait(wait_s * random.uniform(0.5, 1.0), self._stopping)  # noqa: S311
            wait_s = min(wait_s * 2, 10)

    def _give_up(self, claim_id: UUID) -> None:
        with self._noting:
            if claim_id not in self._given_up:
                self._given_up = (*self._given_up[-CLAIMS:], claim_id)

    def _note(self, error: ObjectStoreError | None) -> None:
        """Say once when the bucket goes away, and once when it is back, not at each try."""
        with self._noting:
            was_away, self._away = self._away, error is not None
        if error and not was_away:
            _log.warning("the bucket does not take what is made, which is kept a while: %s", error)
        if was_away and not error:
            _log.info("the bucket takes what is made again")
