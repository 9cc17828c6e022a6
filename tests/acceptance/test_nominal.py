"""What a newcomer does first: one command, from a CSV file to pictures."""

import json
import shutil
from pathlib import Path

import psutil
from PIL import Image

from tests.acceptance.stack import ROOT, command


def test_run(tmp_path: Path) -> None:
    """`presswork run` starts a stack, makes the example campaign, and leaves nothing running."""
    example = tmp_path / "spring-sale"
    shutil.copytree(ROOT / "examples" / "spring-sale", example)
    out = tmp_path / "out"
    before = {process.pid for process in psutil.process_iter()}
    done = command(
        *("run", str(example / "campaign.yaml"), "--out", str(out)),
        *("--data", str(tmp_path / "data"), "--devices", "cpu"),
        timeout_s=170,
    )
    assert done.returncode == 0, done.stderr
    assert "24 of 24 jobs done" in done.stdout
    assert str(out / "contact-sheet.png") in done.stdout
    assert "noise by design" in done.stdout
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["recipient"] for line in lines] == [f"C-{n:03}" for n in range(1, 25)]
    for line in lines:
        assert (line["status"], line["creative"], line["error"]) == ("succeeded", "hero", None)
        with Image.open(out / line["path"]) as image:
            assert image.size == (line["width"], line["height"]) == (128, 128)
            assert image.info["presswork:job"] == line["job_id"]
            assert image.info["presswork:seed"] == str(line["seed"])
    ours = [
        process.cmdline()
        for process in psutil.process_iter()
        if process.pid not in before and str(tmp_path) in " ".join(process.cmdline())
    ]
    assert ours == []


def test_bad_campaign_starts_nothing(tmp_path: Path) -> None:
    """A file that is wrong is refused before anything is started or made."""
    file = tmp_path / "campaign.yaml"
    file.write_text("name: x\nrecipients: {file: r.csv, id: id}\ncreatives:\n  - {nme: hero}\n")
    data = tmp_path / "data"
    done = command("run", str(file), "--out", str(tmp_path / "out"), "--data", str(data))
    assert done.returncode == 2
    assert f"{file}:4: creatives[0].nme: unknown key; did you mean 'name'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["campaign.yaml"]


def test_unknown_device_is_refused(tmp_path: Path) -> None:
    """Whatever would start a worker says at once, and in the same words, what a device is."""
    for arguments in (["up"], ["worker"], ["run", "c.yaml", "--out", "out"]):
        done = command(*arguments, "--devices", "tpu", "--data", str(tmp_path / "data"))
        assert done.returncode == 2
        assert "'tpu' is not a device" in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
