"""The classes of a dataset whose captions are labels."""

from collections.abc import Iterable

MAX_LABELS = 1000
MAX_LENGTH = 200


def labels_of(captions: Iterable[str]) -> tuple[str, ...]:
    """The captions, each once, in the order of the alphabet.

    Raises:
        ValueError: they are no labels.
    """
    names = tuple(sorted(set(captions)))
    if "" in names:
        raise ValueError("a picture has no caption, and captions are the labels")
    longest = max(names, key=len)
    if len(longest) > MAX_LENGTH:
        raise ValueError(
            f"a label has at most {MAX_LENGTH} characters: {longest[:30]!r}... is none"
        )
    if len(names) > MAX_LABELS:
        raise ValueError(
            f"the pictures have {len(names)} different captions, and a model at most {MAX_LABELS} "
            "labels"
        )
    return names
