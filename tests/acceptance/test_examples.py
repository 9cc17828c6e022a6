"""The producers and campaigns under examples/, and every kind's example, work as they stand."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from jobs.kinds import KINDS
from jobs.trainings.requests import TRAININGS
from storage.lifecycle import FINAL, JobStatus
from tests.acceptance.stack import ROOT, Running, environment, presswork, up
from tests.contracts import media
from tests.waiting import until
from workers.family import Output


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running stack."""
    folder = tmp_path_factory.mktemp("examples")
    with up(folder / "data", folder / "up.log") as running:
        yield running


def run(*command: str, **variables: str) -> str:
    """What an example prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**environment(), "PATH": path, **variables},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_http(stack: Running) -> None:
    """A job submitted over HTTP is polled to its end."""
    printed = run(
        *(sys.executable, "examples/producer_http.py"),
        PRESSWORK_URL=stack.info.api_url,
        PRESSWORK_API_KEY=stack.info.api_key,
    )
    assert printed.startswith("succeeded /v1/artifacts/")


def test_command(stack: Running, tmp_path: Path) -> None:
    """A campaign submitted by the command is waited for and fetched."""
    run("examples/producer_command.sh", str(tmp_path / "out"), PRESSWORK_DATA=str(stack.data))
    assert len(list((tmp_path / "out").glob("C-*+hero.png"))) == 24


def test_every_kind_by_the_command(stack: Running, tmp_path: Path) -> None:
    """The examples of all kinds make, on the embedded models, files of the kind's medium."""
    trials = presswork("kinds", "--try", "--out", str(tmp_path), data=stack.data)
    assert [(trial["kind"], trial["error"]) for trial in trials] == [(name, None) for name in KINDS]
    for trial in trials:
        for file, media_type in zip(trial["files"], trial["media_types"], strict=True):
            output = Output(Path(file).read_bytes(), media_type, {})
            assert media.medium(output) == KINDS[trial["kind"]].makes


def test_every_kind_over_http(stack: Running) -> None:
    """What `GET /v1/kinds` gives as an example is made when it is posted back."""
    key = {"Authorization": f"Bearer {stack.info.api_key}"}
    with httpx.Client(base_url=stack.info.api_url, headers=key, follow_redirects=True) as client:
        kinds = client.get("/v1/kinds").raise_for_status().json()
        assert [kind["name"] for kind in kinds] == [*KINDS, *TRAININGS]
        kinds = kinds[: len(KINDS)]  # the examples of trainings need a dataset
        posted = [client.post("/v1/jobs", json=kind["example"]) for kind in kinds]
        ids = [answer.raise_for_status().json()["id"] for answer in posted]

        def ended(job_id: str) -> dict[str, Any] | None:
            job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
            return job if job["status"] in FINAL else None

        for kind, job_id in zip(kinds, ids, strict=True):
            job = until(partial(ended, job_id), timeout_s=120)
            assert (job["status"], job["error"]) == (JobStatus.SUCCEEDED, None)
            for artifact in job["artifacts"]:
                data = client.get(artifact["url"]).raise_for_status().content
                assert hashlib.sha256(data).hexdigest() == artifact["sha256"]
                assert media.medium(Output(data, artifact["media_type"], {})) == kind["makes"]
                assert artifact["facts"]["licence"]


def test_a_bundle(stack: Running, tmp_path: Path) -> None:
    """Each customer's clip is made of that customer's picture, headline and voice."""
    campaign = presswork(
        *("campaign", "submit", "examples/bundle/campaign.yaml", "--wait"), data=stack.data
    )
    assert (campaign["status"], campaign["counts"]["succeeded"]) == ("finished", 8)
    presswork("campaign", "export", campaign["id"], "--out", str(tmp_path), data=stack.data)
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    made = {(line["recipient"], line["creative"]): line["outputs"][0] for line in lines}
    assert len(made) == 8
    for recipient in {line["recipient"] for line in lines}:
        parts = {name: made[recipient, name] for name in ("picture", "headline", "voice", "clip")}
        digests = {name: part["sha256"] for name, part in parts.items()}
        assert parts["clip"]["facts"]["inputs"] == {
            "pictures": [digests["picture"]],
            "headline_from": [digests["headline"]],
            "voice": [digests["voice"]],
        }
        with av.open(tmp_path / parts["clip"]["path"]) as clip:
            assert clip.duration is not None
            length_s = clip.duration / av.time_base
        assert length_s == pytest.approx(parts["voice"]["facts"]["duration_s"], abs=0.1)
