"""What a training tells of itself: its events, and the samples that they name."""

import io
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from PIL import Image

from jobs.events import EventName
from storage.objects import ObjectStore, ObjectStoreError, training_prefix
from workers.training.journal import Journal
from workers.training.trainer import Sample

_QUALITY = 90


class Story:
    """Tells a journal, and puts samples where their events say that they are.

    ``about`` is said with the first event. A sample that cannot be stored is left out.
    """

    def __init__(
        self,
        journal: Journal,
        objects: ObjectStore,
        job_id: UUID,
        claim_id: UUID,
        about: Mapping[str, Any],
    ) -> None:
        self._journal = journal
        self._objects = objects
        self._folder = f"{training_prefix(job_id)}samples/"
        self._claim_id = claim_id
        self._about = about
        self._shown: dict[int, int] = {}

    def note(self, name: str, data: dict[str, Any]) -> None:
        """Tell that something has happened."""
        more = self._about if name == EventName.STARTED else {}
        self._journal.note(name, {**data, **more})

    def show(self, step: int, sample: Sample) -> None:
        """Store what it makes after ``step`` steps, and tell."""
        number = self._shown.get(step, 0)
        self._shown[step] = number + 1
        body, media_type, suffix = _encoded(sample)
        key = f"{self._folder}{step:09d}-{number:02d}-{self._claim_id}.{suffix}"
        try:
            self._objects.put(key, body, media_type)
        except ObjectStoreError:
            return
        data = {"step": step, "caption": sample.caption, "files": [key]}
        self._journal.note(EventName.SAMPLE, data)


def _encoded(sample: Sample) -> tuple[bytes, str, str]:
    if isinstance(sample.content, Image.Image):
        file = io.BytesIO()
        sample.content.convert("RGB").save(file, "WEBP", quality=_QUALITY)
        return file.getvalue(), "image/webp", "webp"
    return sample.content.encode(), "text/plain; charset=utf-8", "txt"
