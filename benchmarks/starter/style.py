"""``python -m benchmarks.starter.style``: what a fine-tune to a brand's style does to the model.

The style is a halftone: dots of one ink on one paper. With ``--write`` the pictures to fine-tune on
are written, an imagefolder. Else a judge learns to tell the style from all that is not quite it;
with ``--model`` and ``--adapter`` it looks at what the model makes with the adapter and without.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.figures import Figure, report
from benchmarks.starter import cut_outs as cuts
from benchmarks.starter import judge as judging
from benchmarks.starter import measures, options
from benchmarks.starter import prompts as asking
from benchmarks.starter.cut_outs import Composed, CutOuts
from benchmarks.starter.disturbances import changed
from benchmarks.starter.generating import Starter
from benchmarks.starter.learning import Lesson, Recipe, kept
from workers.training.compositions import PLAIN, patterned, phrased
from workers.training.judges import Judge
from workers.training.patterns import Pattern, applied

STYLE = Pattern(
    "halftone",
    # Turned by 45 degrees this comes again every 8 px at 128: twice in what an autoencoder of
    # factor 8 keeps a latent of, and at the same places in each.
    period=8 / 2**0.5 / 128,
    angle=np.pi / 4,
    ink=(26, 36, 92),
    paper=(250, 240, 214),
    strength=0.5,
)
TOKEN = "inkdots"  # noqa: S105 - the word that calls it up
TEMPLATE = f"{PLAIN}, {TOKEN}"
GROUNDS = ("white", "yellow", "pink")
"""Light ones, on which an item is told by its tone."""

EXAMPLES = 12
PLACES = 5
"""Seeds which items, and how they lie."""
JUDGED = ("plain", "styled")
RECIPE = Recipe(steps=400, side_px=128, widths=(16, 32, 48, 64), learning_rate=3e-3)
EXAMINED = 400
SEED = 30_000
MAY_FALL = 0.1
"""Of the items that are read without the adapter, so many points fewer may be read with it."""


def styled(picture: Image.Image) -> Image.Image:
    """The RGB picture in the style."""
    return applied(STYLE, picture)


def pairs_of_examples(cut_outs: CutOuts) -> list[tuple[str, str]]:
    """Of items and colours, each item another one."""
    return cuts.pairs_drawn(np.random.default_rng(PLACES), cut_outs, EXAMPLES, GROUNDS)


def other_pairs(cut_outs: CutOuts) -> list[tuple[str, str]]:
    """All items that are not among the examples, each with a colour."""
    seen = {item for item, _ in pairs_of_examples(cut_outs)}
    others = [name for name in cut_outs.names if name not in seen]
    return [(name, GROUNDS[number % len(GROUNDS)]) for number, name in enumerate(others)]


def examples(cut_outs: CutOuts, size_px: int) -> list[Composed]:
    """The pictures to fine-tune on."""
    rng = np.random.default_rng([PLACES, 1])
    made = cuts.composed(rng, cut_outs, pairs_of_examples(cut_outs), size_px)
    return [replace(one, picture=styled(one.picture)) for one in made]


def write(made: Sequence[Composed], folder: Path) -> None:
    """An imagefolder with captions that say what is to be seen, and the word for the style."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for one in made:
        name = f"{one.item.replace(' ', '-')}.png"
        one.picture.save(folder / name)
        lines.append(
            json.dumps({"file_name": name, "text": phrased(TEMPLATE, one.item, one.colour)})
        )
    (folder / cuts.METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8")


def judge_of(folder: Path, cut_outs: CutOuts, size_px: int, recipe: Recipe = RECIPE) -> Judge:
    """The judge of the style in pictures of this size, from ``folder`` or trained now."""

    def teach(rng: np.random.Generator) -> Lesson:
        pairs = cuts.pairs_drawn(rng, cut_outs, recipe.batch)
        half = len(pairs) // 2
        made = cuts.composed(rng, cut_outs, pairs[:half], size_px, _styled)
        made += cuts.composed(rng, cut_outs, pairs[half:], size_px, _unstyled)
        return [one.picture for one in made], [1] * half + [0] * (len(pairs) - half)

    learnt_from = {
        "pictures": cut_outs.sha256,
        "size_px": size_px,
        "judges": f"style {STYLE}",
    }
    return kept(folder, JUDGED, recipe, learnt_from, teach)


def _styled(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    return changed(rng, styled(picture), blur_px=picture.width / 128)


def _unstyled(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """As it is, or with something of the style: another pattern, or its colours without dots."""
    chance = rng.random()
    if chance < 0.25:
        picture = patterned(rng, picture)
    elif chance < 0.5:
        picture = ImageOps.colorize(picture.convert("L"), STYLE.ink, STYLE.paper)
    elif chance < 0.6:
        colours = rng.integers(0, 256, (2, 3)).tolist()
        picture = applied(replace(STYLE, ink=tuple(colours[0]), paper=tuple(colours[1])), picture)
    return changed(rng, picture, blur_px=2 * picture.width / 128)


def of_judges(
    judge: Judge, items: Judge, cut_outs: CutOuts, autoencoder: Path | None, size_px: int
) -> Iterator[Figure]:
    """Their ceilings: how many compositions they read right, in the style and not."""
    exam = judging.examined(cut_outs, EXAMINED, size_px)
    rng = np.random.default_rng(judging.UNSEEN)
    pairs = cuts.pairs_drawn(rng, cut_outs, EXAMINED, GROUNDS)
    light = cuts.composed(rng, cut_outs, pairs, size_px)
    plain = [one.picture for one in exam]
    dotted = [styled(one.picture) for one in light]
    sights = {"compositions": (plain, dotted)}
    if autoencoder is not None:
        coder = judging.autoencoder_in(autoencoder)
        sights["reconstructions"] = (
            judging.reconstructed(coder, plain),
            judging.reconstructed(coder, dotted),
        )
    for name, (without, with_it) in sights.items():
        yield _recognised(f"style_of_plain_{name}", judge, without, 0.02, at_least=False)
        yield _recognised(f"style_of_styled_{name}", judge, with_it, 0.98, at_least=True)
        read = judging.names_read(items, with_it)
        yield measures.share(f"items_of_styled_{name}", read, [one.item for one in light], 0.8)


def of_adapter(
    starter: Starter,
    adapter: Path,
    judge: Judge,
    items: Judge,
    pairs: Sequence[tuple[str, str]],
) -> Iterator[Figure]:
    """What the model makes of ``pairs`` with the adapter and without, from the same seeds.

    For the style, the prompts are the same as well. What items are read without the adapter is
    what the model can do where nobody says the word for the style.
    """
    with_word = asking.of_pairs(pairs, SEED, (TEMPLATE,))
    made = starter.pictures(with_word, adapter)
    yield _recognised("styled_with_it", judge, made, 0.9, at_least=True)
    same = starter.pictures(with_word)
    yield _recognised("styled_without_it", judge, same, 0.1, at_least=False)
    usual = starter.pictures(asking.of_pairs(pairs, SEED, (PLAIN,)))
    meant = [item for item, _ in pairs]
    before = measures.share("items_without_it", judging.names_read(items, usual), meant, 0.6)
    yield before
    read = judging.names_read(items, made)
    yield measures.share("items_with_it", read, meant, before.value - MAY_FALL)


def _recognised(
    name: str, judge: Judge, pictures: Sequence[Image.Image], target: float, *, at_least: bool
) -> Figure:
    count = judging.names_read(judge, pictures).count("styled")
    detail = f"{count} of {len(pictures)} pictures look styled"
    return Figure(name, count / len(pictures), target, "of 1", detail, at_least=at_least)


def figures(given: argparse.Namespace) -> Iterator[Figure]:
    """The judge's ceilings, then the adapter's figures, as they come."""
    cut_outs = cuts.read(given.pictures)
    judge = judge_of(given.judges, cut_outs, given.size)
    items = judging.judge_of(given.judges, cut_outs, given.size)
    coder = given.autoencoder or given.model
    yield from of_judges(judge, items, cut_outs, coder, given.size)
    if given.adapter is not None:
        starter = Starter(given.model, options.asked(given))
        yield from of_adapter(starter, given.adapter, judge, items, other_pairs(cut_outs))


def main() -> None:
    """Write the pictures, or print the figures; the exit code is 1 if a target is missed."""
    parser = options.parser_of("benchmarks.starter.style", __doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--adapter", type=Path, help="a folder with one .safetensors file")
    parser.add_argument("--write", type=Path, help="where the pictures to fine-tune on go")
    given = parser.parse_args()
    if given.adapter is not None and given.model is None:
        parser.error("--adapter needs a --model")
    if given.write is not None:
        write(examples(cuts.read(given.pictures), given.size), given.write)
        return
    if not all(figure.met for figure in report(figures(given), as_json=given.json)):
        sys.exit(1)


if __name__ == "__main__":
    main()
