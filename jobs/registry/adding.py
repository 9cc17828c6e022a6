"""Adding a model for everybody: its source is found, inspected, mirrored, and registered last.

What was interrupted has registered nothing; done again it finds in the bucket what is there.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.kinds import KINDS
from jobs.kinds.image_details import details_of
from jobs.problems import BadInputError, Problem, from_validation, nearest
from jobs.registry import adapters, inspection, mirror, sources, trees
from jobs.registry.specs import FAMILY_KINDS, ModelSpec
from jobs.services import Services
from storage import models
from storage.licences import LICENCES
from storage.models import (
    ADAPTER,
    REVISION_LENGTH,
    DuplicateModelError,
    ModelCard,
    manifest_digest,
)

FROM_GGUF = "causal_lm"
"""The family whose GGUF files are turned into safetensors, once, when they are added."""
DIFFUSERS = frozenset({"diffusion", "sound", "video"})
"""The families whose models are pipelines of diffusers."""
INDEX = "model_index.json"


@dataclass(frozen=True)
class Added:
    """A registered model, and the files of its source that are no part of it."""

    card: ModelCard
    left_out: tuple[str, ...]


def add(
    services: Services,
    spec: ModelSpec,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Added:
    """Register a model. ``progress`` is told how many bytes of how many are in the bucket.

    Raises:
        BadInputError: all that is wrong with it, each file by name; fields are those of the spec.
        DuplicateModelError: the name is taken.
    """
    card = _card(services, spec)
    with (
        sources.opened(spec.source, services.objects) as source,
        tempfile.TemporaryDirectory(prefix="presswork-model-") as scratch,
    ):
        files, problems = dict(source.tree.files), list(source.tree.problems)
        problems += inspection.problems_of(files)
        if not any(path.lower().endswith(inspection.WEIGHTS) for path in files):
            others = f"; left out: {_some(source.tree.left_out)}" if source.tree.left_out else ""
            message = f"there are no weights (safetensors, GGUF or ONNX) in it{others}"
            problems.append(Problem(message, field="source"))
        elif spec.family in DIFFUSERS and not spec.adapter_for and INDEX not in files:
            message = f"it is not a diffusers directory: it has no {INDEX}"
            problems.append(Problem(message, field="source"))
        _refuse(problems)
        details: dict[str, Any] = {}
        ggufs = [path for path in files if path.lower().endswith(".gguf")]
        if ggufs:
            details = {"sha256": {ggufs[0]: mirror.manifest_of(files)[ggufs[0]]["sha256"]}}
            files = _converted(files, ggufs, card, Path(scratch) / "model")
        if card.kind == ADAPTER:
            details, problems = adapters.examine(files, card.family)
            _refuse(problems)
        manifest = mirror.manifest_of(files)
        digest = manifest_digest(manifest)
        card = replace(
            card,
            source=source.place,
            revision=source.revision or digest[:REVISION_LENGTH],
            details={**_found(spec.family, files), **spec.details, **details},
            manifest=manifest,
            manifest_sha256=digest,
            size_multiple_px=spec.size_multiple or _size_multiple(files),
        )
        _check_defaults(card)
        mirror.store(services.objects, files, manifest, progress)
    with services.engine.begin() as connection:
        models.add(connection, card)
    return Added(card, tuple(source.tree.left_out))


def _found(family: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """The details that a model's own files tell; what is given by hand goes before them."""
    if family == "diffusion" and INDEX in files:
        return details_of(str(_read(files[INDEX]).get("_class_name")))
    if family == "gan" and "config.json" in files:
        return {"labels": _read(files["config.json"]).get("class_names", [])}
    return {}


def _read(file: Path) -> dict[str, Any]:
    read = json.loads(file.read_text(encoding="utf-8"))
    return read if isinstance(read, dict) else {}


def _refuse(problems: Iterable[Problem]) -> None:
    problems = list(problems)
    if problems:
        shown = problems[: inspection.MAX_GIVEN]
        if len(problems) > len(shown):
            more = len(problems) - len(shown)
            shown.append(Problem(f"and {more} more of its files are refused", field="source"))
        raise BadInputError(*shown)


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""  # noqa: PLR2004 (a line's worth)
    return ", ".join(paths[:5]) + more


def _card(services: Services, spec: ModelSpec) -> ModelCard:
    """The card without what its files say, once all that needs no files has been checked."""
    with services.engine.begin() as connection:
        if models.find(connection, spec.name):
            raise DuplicateModelError(spec.name)
        everybodys = {card.name: card for card in models.list_models(connection, None)}
    base = everybodys.get(spec.adapter_for or "")
    known = [card.name for card in everybodys.values() if card.kind != ADAPTER]
    kind = spec.kind or FAMILY_KINDS[spec.family]
    problems = list(_licence_problems(spec))
    if spec.adapter_for and (base is None or base.kind == ADAPTER):
        message = f"there is no model {spec.adapter_for!r}; {nearest(spec.adapter_for, known)}"
        problems.append(Problem(message, field="adapter_for"))
    if not spec.adapter_for and kind not in KINDS:
        problems.append(
            Problem(f"unknown kind {kind!r}; {nearest(kind, list(KINDS))}", field="kind")
        )
    if problems:
        raise BadInputError(*problems)
    rule = LICENCES.get(spec.licence)
    commercial = rule.commercial if rule and spec.commercial is None else spec.commercial
    assert commercial is not None
    card = ModelCard(
        name=spec.name,
        family=base.family if base else spec.family,
        kind=ADAPTER if base else kind,
        source=spec.source,
        licence=spec.licence,
        pool=base.pool if base else spec.pool,
        max_side_px=spec.max_side,
        default_size=spec.size,
        default_steps=spec.steps,
        default_guidance=spec.guidance,
        base=base.name if base else None,
        commercial=commercial,
        attribution=spec.attribution or (rule.words if rule else None),
        licence_until=spec.licence_until,
        size_multiple_px=spec.size_multiple or 1,
        details=spec.details,
    )
    _check_defaults(card)
    return card


def _licence_problems(spec: ModelSpec) -> Iterator[Problem]:
    rule = LICENCES.get(spec.licence)
    if rule is None and spec.commercial is None:
        near = nearest(spec.licence, list(LICENCES))
        message = (
            f"Presswork does not know {spec.licence!r} ({near}): if it is right, `commercial` must "
            "say whether commercial use is allowed"
        )
        yield Problem(message, field="licence")
    if rule and rule.commercial is None and spec.commercial is None:
        message = f"{spec.licence} leaves that open ({rule.note}): say yes or no"
        yield Problem(message, field="commercial")
    if rule and rule.attribution and not rule.words and not spec.attribution:
        message = f"{spec.licence} wants the author named: give the text that outputs come with"
        yield Problem(message, field="attribution")


def _converted(
    files: Mapping[str, Path], ggufs: list[str], card: ModelCard, folder: Path
) -> dict[str, Path]:
    """The files of the transformers model that a GGUF file holds, in ``folder``."""
    if card.family != FROM_GGUF or card.kind == ADAPTER:
        message = f"GGUF is for models of family {FROM_GGUF}; this takes safetensors"
        raise BadInputError(Problem(message, file=ggufs[0], field="source"))
    if len(ggufs) > 1 or any(path.endswith(".safetensors") for path in files):
        message = f"more than one set of weights is there, keep one: {_some(ggufs)}"
        raise BadInputError(Problem(message, field="source"))
    # It needs torch, which is not for this process.
    file = folder.parent / "model.gguf"  # in a cache it may have another name
    file.symlink_to(files[ggufs[0]].resolve())
    command = [sys.executable, "-m", "workers.gguf", str(file), str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BadInputError(
            Problem(f"could not be turned into safetensors: {said[-1]}", file=ggufs[0])
        )
    tree = trees.read(folder)
    _refuse([*tree.problems, *inspection.problems_of(tree.files)])
    return tree.files


def _size_multiple(files: Mapping[str, Path]) -> int:
    """From the autoencoder's depth, where its configuration is at hand: each level halves."""
    config = files.get("vae/config.json")
    if config:
        blocks = json.loads(config.read_text(encoding="utf-8")).get("block_out_channels", [0] * 4)
        return int(2 ** (len(blocks) - 1))
    return 8


def _check_defaults(card: ModelCard) -> None:
    """Refuse a model whose defaults, or details, no job could use.

    A job like the kind's example is tried, with only what it is about. What is wrong with just
    that for this model, such as a picture that it needs or a recipe that it does not know, says
    nothing against the model.
    """
    if card.kind == ADAPTER:
        return
    kind = KINDS[card.kind]
    fields = kind.Request.model_fields
    about = {name for name, field in fields.items() if field.is_required()} | kind.templates
    given = {name: value for name, value in kind.example.items() if name in about}
    defaults = {"model": card.name, "size": card.default_size}  # the others: as resolved
    given |= {name: value for name, value in defaults.items() if name in fields}
    try:
        filled = kind.resolve(kind.Request.model_validate(given), card)
        kind.Request.model_validate(filled.model_dump())
    except ValidationError as error:
        raise BadInputError(*from_validation(error, kind.Request)) from error
    except BadInputError as error:
        own = about | kind.inputs.keys() | {"recipe"}
        problems = [problem for problem in error.problems if problem.field not in own]
        if problems:
            raise BadInputError(*problems) from error
