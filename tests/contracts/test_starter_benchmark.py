"""The benchmark of the starter model, on a few cut-outs and a tiny pipeline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.figures import Figure
from benchmarks.starter import cut_outs as cuts
from benchmarks.starter import judge as judging
from benchmarks.starter import measures, options, sheet, style
from benchmarks.starter.cut_outs import CutOuts
from benchmarks.starter.disturbances import disturbed
from benchmarks.starter.generating import Asked, Starter
from benchmarks.starter.learning import Recipe
from benchmarks.starter.measures import Scale
from tests.contracts import loras
from tests.cut_out_files import write_cut_outs
from workers.families.diffusion import Diffusion
from workers.family import Device
from workers.training.compositions import held_out
from workers.training.judges import Judge

# Of diffusers' schedulers, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE_PX = 64
RECIPE = Recipe(steps=60, batch=24, side_px=32, widths=(8, 16, 16), learning_rate=1e-2)


@pytest.fixture(scope="module")
def cut_outs(tmp_path_factory: pytest.TempPathFactory) -> CutOuts:
    """Three of them."""
    return cuts.read(write_cut_outs(tmp_path_factory.mktemp("cut-outs") / "pictures"))


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are kept."""
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def judge(cut_outs: CutOuts, judges: Path) -> Judge:
    """One that has learnt a little."""
    return judging.judge_of(judges, cut_outs, SIZE_PX, RECIPE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that makes noise."""
    folder = tmp_path_factory.mktemp("model")
    Diffusion().debug(folder)
    return folder


def values(figures: Sequence[Figure]) -> dict[str, float]:
    """The figures' values by name."""
    return {figure.name: figure.value for figure in figures}


def test_cut_outs_need_a_name_each(tmp_path: Path) -> None:
    """A folder without captions, or with the same one twice, trains no judge."""
    with pytest.raises(ValueError, match="no imagefolder of cut-outs"):
        cuts.read(tmp_path)
    folder = write_cut_outs(tmp_path / "pictures")
    metadata = folder / "metadata.jsonl"
    metadata.write_text(metadata.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(ValueError, match="two pictures have the same text"):
        cuts.read(folder)


def test_a_judge_tells_compositions_apart(cut_outs: CutOuts, judge: Judge, model: Path) -> None:
    """What it has learnt holds for other compositions, and not for a decoder's noise."""
    found = values([*measures.of_judge(judge, cut_outs, model, SIZE_PX, Scale(examined=60))])
    assert found["judge_on_compositions"] > 0.9
    assert found["background_of_compositions"] == 1
    assert found["judge_on_reconstructions"] < 0.9


def test_a_judge_is_trained_once(cut_outs: CutOuts, judge: Judge, judges: Path) -> None:
    """The same recipe finds it again; what it learns from decides what is the same."""
    again = judging.judge_of(judges, cut_outs, SIZE_PX, RECIPE)
    assert all(
        (again.state_dict()[name] == kept).all() for name, kept in judge.state_dict().items()
    )
    before = len(list(judges.iterdir()))
    judging.judge_of(judges, cut_outs, 32, Recipe(steps=1, batch=3, side_px=32, widths=(4,)))
    assert len(list(judges.iterdir())) == before + 1


def test_disturbances_repeat() -> None:
    """A seed disturbs a picture in one way, and others in others."""
    picture = Image.radial_gradient("L").convert("RGB").resize((SIZE_PX, SIZE_PX))
    made = [disturbed(np.random.default_rng(seed), picture) for seed in (*range(12), *range(12))]
    assert made[:12] == made[12:]
    assert len({one.tobytes() for one in made}) > 6
    assert {(one.mode, one.size) for one in made} == {("RGB", picture.size)}


def test_a_model_is_measured_as_it_is(cut_outs: CutOuts, judge: Judge, model: Path) -> None:
    """Noise is read as items by chance at best, and its seeds show nothing that could vary."""
    starter = Starter(model, Asked(Device("cpu"), SIZE_PX, steps=2, batch=8))
    scale = Scale(prompts=6, varied=1, seeds=2)
    found = values([*measures.of_model(starter, judge, cut_outs, {("bar", "red")}, scale)])
    assert found.keys() == {
        "items",
        "backgrounds",
        "held_out_items",
        "held_out_backgrounds",
        "diversity",
    }
    assert found["items"] < 1
    assert found["backgrounds"] < 1


def test_a_style_is_told_from_what_is_not_quite_it(cut_outs: CutOuts, judges: Path) -> None:
    """Its judge knows it on other compositions, from plain ones."""
    recipe = Recipe(steps=30, batch=16, side_px=64, widths=(8, 16), learning_rate=1e-2)
    judge = style.judge_of(judges, cut_outs, 128, recipe)
    rng = np.random.default_rng(1)
    made = [
        one.picture
        for one in cuts.composed(rng, cut_outs, cuts.pairs_drawn(rng, cut_outs, 20), 128)
    ]
    assert judging.names_read(judge, made).count("styled") <= 2
    assert judging.names_read(judge, [style.styled(one) for one in made]).count("styled") >= 18


def test_examples_of_the_style_are_a_dataset(cut_outs: CutOuts, tmp_path: Path) -> None:
    """Shades between two colours, and a caption that says the word for the style."""
    made = style.examples(cut_outs, 128)
    style.write(made[:2], tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert f", {style.TOKEN}" in (tmp_path / "metadata.jsonl").read_text(encoding="utf-8")
    ink, paper = np.array(style.STYLE.ink), np.array(style.STYLE.paper)
    shades = (np.asarray(made[0].picture) - ink) / (paper - ink)
    assert np.ptp(shades, axis=2).max() < 0.02
    assert np.ptp(shades) > 0.5


def test_an_adapter_is_measured(
    cut_outs: CutOuts, judge: Judge, model: Path, tmp_path: Path
) -> None:
    """With it and without it, on the same prompts and seeds."""
    starter = Starter(model, Asked(Device("cpu"), SIZE_PX, steps=1, batch=8))
    loras.lora(starter.model, tmp_path / "lora", 1)
    two = Judge(style.JUDGED, 32, (4,)).eval()
    pairs = [(name, "white") for name in cut_outs.names]
    found = values([*style.of_adapter(starter, tmp_path / "lora", two, judge, pairs)])
    assert found.keys() == {
        "styled_with_it",
        "styled_without_it",
        "items_without_it",
        "items_with_it",
    }


def test_a_sheet_has_all_pictures(tmp_path: Path) -> None:
    """Rows of eight, each picture over its caption, as a file of the kind that its name says."""
    pictures = [Image.new("RGB", (32, 32), (number * 20, 0, 0)) for number in range(9)]
    drawn = sheet.drawn(pictures, ["a red mug on a very plain background"] * 9)
    cell = 32 + sheet.GAP_PX
    assert drawn.width == 8 * cell + sheet.GAP_PX
    assert drawn.getpixel((sheet.GAP_PX + 7 * cell, sheet.GAP_PX)) == (140, 0, 0)
    sheet.write(drawn, tmp_path / "docs" / "sheet.webp")
    with Image.open(tmp_path / "docs" / "sheet.webp") as written:
        assert (written.format, written.size) == ("WEBP", drawn.size)


def test_a_recipe_says_which_pairs_were_kept_out(tmp_path: Path) -> None:
    """The seed in it decides; an option comes first, and with neither there is no guessing."""
    parser = options.parser_of("benchmarks.starter", None)
    said = ["--pictures", "somewhere", "--model", str(tmp_path)]
    names = ("bar", "cross", "disc")
    with pytest.raises(SystemExit, match="give the training's as --seed"):
        options.kept_out(parser.parse_args(said), names)
    (tmp_path / options.RECIPE).write_text("name: starter\nseed: 7\n", encoding="utf-8")
    by_recipe = options.kept_out(parser.parse_args(said), names)
    assert by_recipe == held_out(names, cuts.COLOURS, seed=7)
    by_option = options.kept_out(parser.parse_args([*said, "--seed", "8"]), names)
    assert by_option == held_out(names, cuts.COLOURS, seed=8)
