"""The curves of one attempt, as TensorBoard reads them: a file that grows, now and then stored."""

import os
import tempfile
import time
from collections.abc import Mapping
from uuid import UUID

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from jobs.events import logs_prefix
from storage.objects import ObjectStore


class Curves:
    """An event file. Those of all attempts in one folder are one curve.

    An attempt that begins after ``step`` steps takes back what the ones before it have drawn
    behind that.
    """

    # Not with torch's SummaryWriter: a thread of its own does the writing there, and whoever calls
    # it waits for ever once that has ended at a full disk.

    def __init__(self, objects: ObjectStore, job_id: UUID, claim_id: UUID, step: int) -> None:
        self._objects = objects
        # Readers take files in the order of their names.
        self._key = f"{logs_prefix(job_id)}events.out.tfevents.{step:010d}.{claim_id}"
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (see `close`)
        self._records = RecordWriter(self._file)
        self._is_stored = False
        self._write(step, file_version="brain.Event:2")
        self._write(step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Draw what was measured after ``step`` steps, by the name of the curve."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self._write(step, summary=Summary(value=values))

    def store(self) -> None:
        """Put it into the bucket, as it is now.

        Raises:
            ObjectStoreError: it is not there; it may be stored again later.
        """
        if self._is_stored:
            return
        self._file.seek(0)  # which writes what is buffered
        try:
            self._objects.put_file(self._key, self._file)
        finally:
            self._file.seek(0, os.SEEK_END)
        self._is_stored = True

    def close(self) -> None:
        """Give the file up."""
        self._file.close()

    def _write(self, step: int, **what: object) -> None:
        event = Event(wall_time=time.time(), step=step, **what)
        self._records.write(event.SerializeToString())
        self._is_stored = False
