"""The files that jobs start from: fetched, checked against their digests, safe to open."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from jobs import files
from jobs.inputs import check_file, check_media, check_sample
from jobs.kinds import KINDS, samples
from jobs.kinds.references import Media, Reference
from jobs.pictures import storing
from jobs.pictures.cleaning import clean
from jobs.pictures.errors import PictureError
from storage.ledger.claim import Batch, ClaimedJob
from storage.ledger.finish import Failed, Released
from storage.ledger.needs import NeedArtifact
from storage.objects import (
    ObjectMissingError,
    ObjectStore,
    ObjectStoreError,
    picture_key,
    sha256_hex,
)
from workers.family import Input, Item
from workers.sickness import released, sickness_of

_log = logging.getLogger(__name__)


Needed = Mapping[UUID, Mapping[str, Sequence[NeedArtifact]]]
"""By job: what the jobs that it needs have made, by their creative's name or their id."""


ReadNeeds = Callable[[Collection[UUID]], Needed]


class InputError(Exception):
    """One job cannot have what it names; ``code`` is the job's error."""

    def __init__(self, code: str, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry


class Inputs:
    """Gives items their files. ``read_needs`` tells what the jobs have made that others need."""

    def __init__(self, objects: ObjectStore, read_needs: ReadNeeds = lambda _: {}) -> None:
        self._objects = objects
        self._read_needs = read_needs

    def given(
        self, batch: Batch, items: Iterable[Item | Failed]
    ) -> Iterator[Item | Failed | Released]:
        """Each item with its files, or why it cannot have them.

        What several items of a batch name is fetched once. A bucket that does not answer is no
        fault of the jobs: they go back.
        """
        jobs = {job.id: job for job in batch.jobs}
        files_of = _Files(self._objects, self._read_needs, list(jobs))
        away: ObjectStoreError | None = None
        for item in items:
            if isinstance(item, Failed):
                yield item
                continue
            job = jobs[item.job_id]
            if away and KINDS[job.kind].inputs:
                yield released(job.id, sickness_of(away))
                continue
            try:
                inputs = files_of.item(job, item)
            except InputError as error:
                yield Failed(job.id, error.code, str(error), error.retry)
            except ObjectStoreError as error:
                _log.warning("claim %s: inputs cannot be read: %s", batch.claim_id, error)
                away = error
                yield released(job.id, sickness_of(error))
            else:
                yield replace(item, inputs=inputs)


class _Files:
    """The files of one batch, each fetched once."""

    def __init__(
        self, objects: ObjectStore, read_needs: ReadNeeds, job_ids: Collection[UUID]
    ) -> None:
        self._objects = objects
        self._read_needs = read_needs
        self._job_ids = job_ids
        self._needed: Needed | None = None
        # Refused ones too: a picture can take half a minute to be refused.
        self._known: dict[tuple[UUID, str, Media], Input | PictureError] = {}

    def item(self, job: ClaimedJob, item: Item) -> dict[str, list[Input]]:
        """The files of one item, by field.

        Raises:
            InputError: one of them cannot be had.
            ObjectStoreError: the bucket does not answer.
        """
        kind = KINDS[job.kind]
        inputs: dict[str, list[Input]] = {}
        for field, reference in kind.references(item.request):
            name = field.partition("[")[0]
            try:
                found = self._file(job, reference, kind.inputs[name])
            except ObjectMissingError as error:
                message = f"{field}: {_missing(reference)}"
                raise InputError("input_missing", message) from error
            except PictureError as error:
                message = f"{field}: {reference} {error.reason}"
                raise InputError("bad_input", message) from error
            except ValueError as error:
                raise InputError("bad_input", f"{field}: {error}") from error
            inputs.setdefault(name, []).append(found)
        return inputs

    def _file(self, job: ClaimedJob, reference: Reference, medium: Media) -> Input:
        made = None
        if reference.scheme in {"job", "creative"}:
            made = self._output(job.id, reference)
        place = (job.tenant_id, made.object_key if made else str(reference), medium)
        if place not in self._known:
            try:
                self._known[place] = (
                    self._read_output(made, reference, medium)
                    if made
                    else self._own(job.tenant_id, reference, medium)
                )
            except PictureError as error:
                self._known[place] = error
        known = self._known[place]
        if isinstance(known, PictureError):
            raise PictureError(known.reason)
        return known

    def _own(self, tenant_id: UUID, reference: Reference, medium: Media) -> Input:
        """What the tenant has uploaded, or what comes with Presswork."""
        place = reference.place
        if reference.scheme == "sample":
            check_sample(place, medium)
            return sample(place)
        if reference.scheme == "picture":
            check_media(str(reference), "image/png", medium)
            png = self._read(picture_key(tenant_id, place), place)
            return Input(png, "image/png", place)
        check_file(place, medium)
        picture = clean(storing.read_file(self._objects, tenant_id, place))
        return Input(picture.png, "image/png", picture.sha256)

    def _output(self, job_id: UUID, reference: Reference) -> NeedArtifact:
        if self._needed is None:
            self._needed = self._read_needs(self._job_ids)
        outputs = self._needed.get(job_id, {}).get(reference.place, ())
        if reference.index >= len(outputs):
            raise ObjectMissingError(str(reference))
        return outputs[reference.index]

    def _read_output(self, made: NeedArtifact, reference: Reference, medium: Media) -> Input:
        check_media(str(reference), made.media_type, medium)
        data = self._read(made.object_key, made.sha256)
        if medium == "picture" and made.media_type != "image/png":
            picture = clean(data)
            return Input(picture.png, "image/png", picture.sha256, made.licence, made.attribution)
        return Input(data, made.media_type, made.sha256, made.licence, made.attribution)

    def _read(self, key: str, sha256: str) -> bytes:
        data = self._objects.get(key)
        if sha256_hex(data) != sha256:
            message = f"the bucket has other bytes under {key} than were recorded"
            raise InputError("input_corrupt", message, retry=True)
        return data


def _missing(reference: Reference) -> str:
    match reference.scheme:
        case "file":
            return files.missing(reference.place)
        case "picture":
            return f"the bucket has no {reference} any more; upload the picture again"
        case _:
            return f"{reference}: there is no such output"


def sample(name: str) -> Input:
    """A file that comes with Presswork."""
    data = samples.read(name)
    return Input(data, samples.SAMPLES[name], sha256_hex(data))
