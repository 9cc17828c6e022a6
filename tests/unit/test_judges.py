"""The classifier that says what generated pictures show."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from workers.training.judges import CONFIG, WEIGHTS, Judge, as_tensor


def test_a_judge_reads_the_same_after_it_was_kept(tmp_path: Path) -> None:
    """Its files hold names, shape and weights, and what it was trained with."""
    torch.manual_seed(0)
    judge = Judge(("mug", "pen"), side_px=16, widths=(4, 8))
    pictures = torch.rand(3, 3, 16, 16) * 2 - 1
    judge(pictures)  # moves the statistics of its norms, which are to be kept as well
    judge.eval().save(tmp_path / "judge", {"seed": 0})
    loaded = Judge.load(tmp_path / "judge")
    assert loaded.names == ("mug", "pen")
    assert torch.equal(loaded(pictures), judge(pictures))
    assert torch.equal(loaded.items(pictures), judge(pictures).argmax(dim=1))
    assert '"seed": 0' in (tmp_path / "judge" / CONFIG).read_text(encoding="utf-8")


def test_pictures_of_any_size_are_read() -> None:
    """A larger picture is seen as its smaller self, the values of its bytes between -1 and 1."""
    judge = Judge(("mug", "pen", "cup"), side_px=16, widths=(4, 8)).eval()
    large = as_tensor([Image.new("RGB", (64, 64), (255, 0, 255))])
    small = as_tensor([Image.new("RGB", (16, 16), (255, 0, 255))])
    assert large.shape == (1, 3, 64, 64)
    assert large[0, :, 5, 5].tolist() == [1, -1, 1]
    assert torch.allclose(judge.features(large), judge.features(small), atol=1e-5)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_folder_without_a_judge_is_refused(tmp_path: Path, file: str) -> None:
    """The message names the folder."""
    Judge(("mug",), side_px=16, widths=(4,)).save(tmp_path, {})
    (tmp_path / file).write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{tmp_path} holds no judge"):
        Judge.load(tmp_path)
