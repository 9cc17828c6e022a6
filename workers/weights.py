"""Whether a model's files hold all of its weights: transformers draws by chance what they lack."""

from pathlib import Path
from typing import Any

SHOWN = 3


class WeightsMissingError(ValueError):
    """With what its files lack made up, a model would say something else each time it is loaded."""


def whole(loaded: tuple[Any, dict[str, Any]], files: Path) -> Any:
    """The model that ``from_pretrained(files, output_loading_info=True)`` gave.

    Raises:
        WeightsMissingError: the files lack some of its weights.
    """
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise WeightsMissingError(f"{files} lacks weights: {', '.join(missing[:SHOWN])}{more}")
    return model
