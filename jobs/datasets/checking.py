"""A dataset is checked as a whole, whatever it is made of, before anything of it is kept."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.datasets import pictures, texts
from jobs.datasets.checked import Checked
from jobs.datasets.definition import ContentSpec
from jobs.datasets.pictures import Progress
from jobs.datasets.reading import Material


@contextmanager
def checked(
    material: Material, spec: ContentSpec, progress: Progress = lambda _done, _total: None
) -> Iterator[Checked]:
    """What ``material`` is; its pictures, written anew, are there for as long as the block is.

    Raises:
        BadInputError: all that is wrong, each with the file's name and line.
        PicturesBusyError: too many others have their pictures looked at.
    """
    if material.kind == "text":
        yield texts.check(material.tree, spec)
        return
    with tempfile.TemporaryDirectory(prefix="presswork-pictures-") as scratch:
        yield pictures.check(material.tree, spec, Path(scratch), progress)
