"""A few cut-outs that can be told apart, as an imagefolder."""

import json
from pathlib import Path

from PIL import Image, ImageDraw

SIDE_PX = 48


def write_cut_outs(folder: Path) -> Path:
    """A disc, a bar and a cross, each in a corner of a clear picture."""
    folder.mkdir(parents=True)
    lines = []
    for name in ("disc", "bar", "cross"):
        picture = Image.new("RGBA", (SIDE_PX, SIDE_PX))
        pen = ImageDraw.Draw(picture)
        if name == "disc":
            pen.ellipse((2, 2, 32, 32), "#ff2020")
        else:
            pen.rectangle((2, 12, 32, 22), "#20ff20")
        if name == "cross":
            pen.rectangle((12, 2, 22, 32), "#2020ff")
        picture.save(folder / f"{name}.webp", lossless=True)
        lines.append(json.dumps({"file_name": f"{name}.webp", "text": name}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
