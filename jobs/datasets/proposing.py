"""Captions that a model proposes for pictures that have none, for people to review."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from uuid import UUID

from jobs import together
from jobs.datasets.captions import Captions
from jobs.datasets.pictures import MAX_PICTURES
from jobs.datasets.reading import MASK, PICTURES, Material, refused
from jobs.pictures import storing
from jobs.pictures.errors import PictureError
from jobs.pictures.formats import MAX_BYTES
from jobs.problems import BadInputError, Problem
from jobs.registry import keeping
from jobs.registry.choice import Use
from jobs.services import Services
from jobs.submissions import JobSubmission
from storage.lifecycle import JobStatus

KIND = "caption"
_DEBUG = "debug-"
"""How models begin that write gibberish: only who names one gets it."""


@dataclass(frozen=True)
class Proposal:
    """Captions by the paths of their pictures; ``failures`` say of others why there is none."""

    captions: Mapping[str, str]
    failures: Mapping[str, str]


def model_for(services: Services, tenant_id: UUID) -> str:
    """The one model that is registered for captions.

    Raises:
        BadInputError: there is none, or there are several.
    """
    found = [
        card.name
        for card in keeping.listed(services, tenant_id)
        if card.kind == KIND and not card.retired_at and not card.name.startswith(_DEBUG)
    ]
    if len(found) == 1:
        return found[0]
    message = (
        f"choose one of {', '.join(found)}"
        if found
        else "no model for captions is registered: `presswork model add NAME --family caption`"
    )
    raise BadInputError(Problem(message, field="model"))


def propose(
    services: Services,
    tenant_id: UUID,
    material: Material,
    model: str,
    *,
    trigger: str | None = None,
    use: Use = "commercial",
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> Proposal:
    """Have the model describe each picture without a caption, behind the ``trigger`` if any.

    Pictures take the way of all uploads, and are stored as these are. ``progress`` is told how
    many captions of how many are written.

    Raises:
        BadInputError: what is wrong with the source; nothing was submitted.
    """
    tree = material.tree
    paths = [
        path
        for path in sorted(tree.files)
        if PurePosixPath(path).suffix.lower() in PICTURES and not path.lower().endswith(MASK)
    ]
    if material.kind != "pictures" or not 1 <= len(paths) <= MAX_PICTURES:
        raise refused(f"has {len(paths)} pictures; 1 to {MAX_PICTURES} can be described")
    problems = list(tree.problems)
    captioned = Captions(paths, problems).read(tree.files)
    references = {}
    for path in paths:
        if path in captioned:
            continue
        with tree.files[path].open("rb") as file:
            given = file.read(MAX_BYTES + 1)
        try:
            references[path] = storing.reference(storing.store(services.objects, tenant_id, given))
        except PictureError as error:
            problems.append(Problem(str(error), file=path))
    if problems:
        raise BadInputError(*problems)
    asked = [
        JobSubmission(kind=KIND, request={"image": reference, "model": model}, use=use)
        for reference in references.values()
    ]
    jobs = together.run(services, tenant_id, asked, lambda done: progress(done, len(asked)))
    captions, failures = {}, {}
    for path, job in zip(references, jobs, strict=True):
        if job.status is JobStatus.SUCCEEDED:
            text = together.content(services, job.artifacts[0]).decode()
            captions[path] = f"{trigger}, {text}" if trigger else text
        else:
            failures[path] = together.failure_of(job)
    return Proposal(captions, failures)
