"""The recipe of a training: every mistake with its line, all of them at once."""

from pathlib import Path

import pytest

from jobs.problems import BadInputError
from jobs.trainings.file import Recipe, load

GOOD = """\
kind: train
name: things
dataset:
  name: pictures
  source: dir:pictures
  licence: MIT
  consent: no person is shown
size: 64x64
architecture:
  type: vae
  widths: [8, 16]
steps: 100
"""


def written(folder: Path, text: str) -> Recipe:
    """The recipe in a file of that text."""
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def errors_of(folder: Path, text: str) -> list[str]:
    """Every problem of a file, as it is printed, without the folder."""
    with pytest.raises(BadInputError) as caught:
        written(folder, text)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_a_recipe(tmp_path: Path) -> None:
    """Its request names the dataset, and paths are relative to the file; `named` renames it."""
    recipe = written(tmp_path, GOOD).named("others")
    assert recipe.kind == "train"
    assert (recipe.request["name"], recipe.request["dataset"]) == ("others", "pictures")
    assert recipe.dataset
    assert recipe.dataset.source == f"dir:{tmp_path}/pictures"
    assert recipe.dataset.spec.licence == "MIT"
    text = GOOD.replace("  source: dir:pictures\n", "  source: files:photos\n")
    entry = written(tmp_path, text).dataset
    assert entry
    assert entry.source == "files:photos"


def test_the_starters_recipe() -> None:
    """The recipe that comes with Presswork is one that it takes."""
    recipe = load(Path(__file__).parents[2] / "models" / "starter" / "recipe.yaml")
    assert recipe.request["name"] == "starter"


@pytest.mark.parametrize(
    ("before", "after", "errors"),
    [
        ("kind: train", "kind: trian", ["r.yaml:1: kind: unknown kind 'trian'; did you mean"]),
        ("kind: train\n", "", ["r.yaml:1: kind: is required"]),
        ("name: things", "name: a/b", ["r.yaml:2: name: String should match"]),
        ("licence: MIT", "licence: MIT?", ["r.yaml:6: dataset.licence: Presswork does not know"]),
        ("licence: MIT", "licence: CC-BY-4.0", ["r.yaml:3: dataset.attribution: CC-BY-4.0 wants"]),
        ("  name: pictures", "  nmae: x", ["r.yaml:3: dataset.name: is", "r.yaml:4: dataset.nmae"]),
        ("steps: 100", "stesp: 9", ["r.yaml:12: stesp: unknown key; did you mean 'steps'?"]),
        ("type: vae", "type: vea", ["r.yaml:9: architecture: Input tag 'vea' found using 'type'"]),
        (
            "[8, 16]\nsteps: 100",
            "[8, 16, 1]\n  kl_wieght: 2\nsteps: x",
            [
                "r.yaml:11: architecture.widths[2]: Input should be greater than or equal to 4",
                "r.yaml:12: architecture.kl_wieght: unknown key; did you mean 'kl_weight'?",
                "r.yaml:13: steps: Input should be a valid integer",
            ],
        ),
    ],
)
def test_mistakes(tmp_path: Path, before: str, after: str, errors: list[str]) -> None:
    """Each is named with its line and its field, with what is nearest."""
    found = errors_of(tmp_path, GOOD.replace(before, after))
    assert len(found) == len(errors), found
    for error, expected in zip(found, errors, strict=True):
        assert error.startswith(expected)
