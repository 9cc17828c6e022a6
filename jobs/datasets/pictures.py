"""Datasets of pictures: each decoded apart and written anew, with its caption and its mask."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from PIL import Image

from jobs.datasets import duplicates
from jobs.datasets.captions import Captions, stem
from jobs.datasets.checked import MAX_GIVEN, Checked, manifest_of, refuse, trigger_warnings
from jobs.datasets.definition import ContentSpec
from jobs.datasets.reading import MASK, OTHER_PICTURES, PICTURES
from jobs.pictures.cleaning import clean
from jobs.pictures.errors import PictureError
from jobs.pictures.formats import MAX_BYTES
from jobs.problems import Problem
from jobs.registry.trees import Tree

MIN_PICTURES = 3
"""DreamBooth's authors got by with three to five."""
MAX_PICTURES = 5000
MIN_SIDE_PX = 64
"""Of the shorter side: the usual autoencoders make eight values of it, and less shows no shape."""

_ALPHA = "alpha"
_OPAQUE = 255
_AT_ONCE = 2
"""As many as are decoded at the same time, see `jobs.pictures.cleaning`."""

Progress = Callable[[int, int], None]
"""Is told how many files of how many have been looked at."""


@dataclass(frozen=True)
class _Seen:
    """A file as it was written anew; ``is_cut_out``: not all of it is opaque."""

    path: str
    sha256: str
    width: int
    height: int
    hash: int
    is_cut_out: bool
    is_transparent: bool
    is_black: bool


def check(tree: Tree, spec: ContentSpec, scratch: Path, progress: Progress) -> Checked:
    """What is in ``tree``; the pictures, written anew, lie in ``scratch``.

    Raises:
        BadInputError: all that is wrong, each with the file's name.
    """
    problems = list(tree.problems)
    pictures, masks = _parted(tree, problems)
    captions = _captions(tree, pictures, spec, problems)
    if not MIN_PICTURES <= len(pictures) <= MAX_PICTURES:
        message = f"has {len(pictures)} pictures; {MIN_PICTURES} to {MAX_PICTURES} can be taken"
        problems.append(Problem(message, field="source"))
        if len(pictures) > MAX_PICTURES:  # which would take long to look at
            refuse(problems)
    seen = _look(tree, [*pictures, *masks.values()], scratch, problems, progress)
    found = [seen[path] for path in pictures if path in seen]
    problems += _size_problems(found)
    problems += _mask_problems(seen, masks)
    exact = list(_exact(found))
    refuse(problems if spec.allow_duplicates else [*problems, *exact])
    items = [
        {
            "file": one.path,
            "picture": one.sha256,
            "width": one.width,
            "height": one.height,
            "caption": captions[one.path],
            "mask": _mask(one, seen, masks),
        }
        for one in found
    ]
    warnings = [*exact, *_near(found), *_left_out(tree)]
    warnings += trigger_warnings(spec.trigger, list(captions.values()), "captions")
    return Checked(
        kind="pictures",
        count=len(items),
        manifest=manifest_of(items),
        warnings=tuple(warnings),
        sizes=dict(Counter(f"{one.width}x{one.height}" for one in found).most_common()),
        masks=sum(item["mask"] is not None for item in items),
        pictures={one.sha256: _place(scratch, one.sha256) for one in seen.values()},
    )


def _parted(tree: Tree, problems: list[Problem]) -> tuple[list[str], dict[str, str]]:
    """The pictures in the order of their names, and the masks by the pictures they are for."""
    endings = PICTURES | OTHER_PICTURES
    paths = sorted(path for path in tree.files if PurePosixPath(path).suffix.lower() in endings)
    pictures = [path for path in paths if not path.lower().endswith(MASK)]
    by_stem: dict[str, str] = {}
    for path in pictures:
        first = by_stem.setdefault(stem(path), path)
        if first != path:
            message = f"{first} has the same name: a caption or a mask could be either's"
            problems.append(Problem(message, path))
    masks = {}
    for path in paths:
        if path.lower().endswith(MASK):
            if stem(path) in by_stem:
                masks[by_stem[stem(path)]] = path
            else:
                problems.append(Problem("is a mask, but there is no picture of that name", path))
    return pictures, masks


def _captions(
    tree: Tree, pictures: Sequence[str], spec: ContentSpec, problems: list[Problem]
) -> dict[str, str]:
    captions = Captions(pictures, problems).read(tree.files)
    for path in pictures:
        if path not in captions and spec.caption:
            captions[path] = spec.caption
        elif path not in captions:
            message = "has no caption; one can be given for all that have none"
            problems.append(Problem(message, path, field="caption"))
    return captions


def _look(
    tree: Tree, paths: Sequence[str], scratch: Path, problems: list[Problem], progress: Progress
) -> dict[str, _Seen]:
    """What each file is, of those that are not refused."""
    seen = {}
    executor = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="dataset")
    try:
        answers = executor.map(partial(_see, tree.files, scratch), paths)
        for done, answer in enumerate(answers, start=1):
            if isinstance(answer, Problem):
                problems.append(answer)
            else:
                seen[answer.path] = answer
            progress(done, len(paths))
    finally:
        executor.shutdown(cancel_futures=True)
    return seen


def _see(files: Mapping[str, Path], scratch: Path, path: str) -> _Seen | Problem:
    with files[path].open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    try:
        picture = clean(data)
    except PictureError as error:
        return Problem(error.reason, path)
    sha256 = picture.sha256
    _place(scratch, sha256).write_bytes(picture.png)
    # From here on it is a file that we have written ourselves.
    with Image.open(io.BytesIO(picture.png), formats=["PNG"]) as image:
        extrema = image.getextrema()
        low, high = extrema[3] if image.mode == "RGBA" else (_OPAQUE, _OPAQUE)  # type: ignore[misc]
        return _Seen(
            path,
            sha256,
            picture.width,
            picture.height,
            duplicates.perceptual_hash(image),
            is_cut_out=low < _OPAQUE,
            is_transparent=high == 0,
            is_black=all(top == 0 for _, top in extrema[:3]),  # type: ignore[misc]
        )


def _place(scratch: Path, sha256: str) -> Path:
    return scratch / f"{sha256}.png"


def _size_problems(found: Sequence[_Seen]) -> Iterator[Problem]:
    for one in found:
        if min(one.width, one.height) < MIN_SIDE_PX:
            yield Problem(
                f"has {one.width}x{one.height} pixels; the shorter side must have at least "
                f"{MIN_SIDE_PX}",
                one.path,
            )


def _mask_problems(seen: Mapping[str, _Seen], masks: Mapping[str, str]) -> Iterator[Problem]:
    for path, one in seen.items():
        mask = seen.get(masks.get(path, ""))
        if mask and (mask.width, mask.height) != (one.width, one.height):
            yield Problem(
                f"has {mask.width}x{mask.height} pixels, and {path} {one.width}x{one.height}: a "
                "mask must have the size of its picture",
                mask.path,
            )
        elif mask and mask.is_black:
            yield Problem(f"is black all over: nothing of {path} would be learnt", mask.path)
        elif one.is_transparent and path not in masks.values():
            yield Problem("is transparent all over", path)


def _mask(one: _Seen, seen: Mapping[str, _Seen], masks: Mapping[str, str]) -> str | None:
    """A side file goes before the picture's own alpha channel."""
    if one.path in masks:
        return seen[masks[one.path]].sha256
    return _ALPHA if one.is_cut_out else None


def _exact(found: Sequence[_Seen]) -> Iterator[Problem]:
    for first, again in duplicates.same([one.sha256 for one in found]):
        yield Problem(f"is the same picture as {found[first].path}", found[again].path)


def _near(found: Sequence[_Seen]) -> Iterator[Problem]:
    """As many as anybody reads: of thousands of pictures all may be near each other."""
    pairs = (
        (found[first].path, found[again].path)
        for first, again in duplicates.near([one.hash for one in found])
        if found[first].sha256 != found[again].sha256
    )
    for first, again in islice(pairs, MAX_GIVEN):
        yield Problem(f"is nearly the same picture as {first}", again)


def _left_out(tree: Tree) -> Iterator[Problem]:
    shown = [path for path in tree.left_out if not PurePosixPath(path).name.startswith(".")]
    if shown:
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""  # noqa: PLR2004 (a line)
        yield Problem(f"left out: {', '.join(shown[:5])}{more}")
