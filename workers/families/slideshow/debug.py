"""The built-in ``slideshow``: no weights, only what says that it is one."""

import json
from pathlib import Path

from workers.families.slideshow.load import VERSION


def build(folder: Path) -> None:
    """Write the configuration to ``folder``."""
    (folder / "slideshow.json").write_text(json.dumps({"version": VERSION}), "utf-8")
