"""The command: answers on stdout, everything else on stderr, and an exit code that can be used."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, create_engine, text

from jobs import requests
from jobs.cli.main import main
from jobs.cli.progress import watch
from jobs.kinds import KINDS
from jobs.services import Services
from jobs.standalone import Servers, ports
from jobs.trainings.requests import TRAININGS
from storage import database, tenants
from storage.ledger import cancel, fanout
from tests.integration.doors import (
    IMAGE_JOB,
    campaign,
    claimed,
    fail,
    fanned_out,
    new_key,
    picture,
    rows,
    served,
    succeed,
)


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """All of stdout as one JSON document."""
        assert (self.code, self.err) == (0, ""), self.err
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture
def environment(
    servers: Servers, tenant_id: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The servers in the environment, no local stack, and nothing else that the shell may have."""
    for name in list(os.environ):
        if name.startswith(("PRESSWORK_", "AWS_")):
            monkeypatch.delenv(name)
    given = {**servers.environment, "PRESSWORK_DATA": str(tmp_path / "no stack")}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


@pytest.fixture
def run(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command in this process, from its arguments to its exit code."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["presswork", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return Said(int(caught.value.code or 0), out, err)

    return run


def write(path: Path, content: str | bytes) -> Path:
    """A file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_campaign_from_file_to_files(
    run: Run, services: Services, campaign_folder: Path, tmp_path: Path
) -> None:
    """Submit, status, list and export answer with the same campaign, for programs and people."""
    file = campaign_folder / "campaign.yaml"
    submitted = run("campaign", "submit", file, "--json").document
    assert (submitted["name"], submitted["status"], submitted["recipients"]) == (
        "Test",
        "compiling",
        3,
    )
    list(fanout.fan_out(services.engine))
    made = succeed(services, claimed(services))
    status = run("campaign", "status", submitted["id"], "--json").document
    assert (status["status"], status["done"], status["counts"]["succeeded"]) == ("finished", 3, 3)
    assert run("campaign", "list", "--json").document == [status]
    assert run("campaign", "status", submitted["id"]).out == (
        f"Test ({submitted['id']}): finished, 3 of 3 jobs done\n  3 succeeded\n"
    )
    out = tmp_path / "out"
    assert run("campaign", "export", submitted["id"], "--out", out, "--json").document == {
        "folder": str(out),
        "manifest": str(out / "manifest.jsonl"),
        "sheet": str(out / "contact-sheet.png"),
        "jobs": 3,
        "files": 3,
    }
    assert {(out / f"{n}+hero.png").read_bytes() for n in (1, 2, 3)} == set(made.values())
    again = run("campaign", "export", submitted["id"], "--out", out).out
    assert again.startswith(f"3 files of 3 jobs in {out}/\n")


def test_submit_prints_the_id(run: Run, campaign_folder: Path) -> None:
    """Without --json the answer is the id alone, to be used by a script."""
    said = run("campaign", "submit", campaign_folder / "campaign.yaml")
    assert (said.code, said.err) == (0, "")
    assert run("campaign", "status", said.out.strip(), "--json").document["name"] == "Test"


def test_a_campaign_can_be_cancelled(run: Run, campaign_folder: Path) -> None:
    """Cancel answers with the campaign, and once more the second time."""
    campaign_id = run("campaign", "submit", campaign_folder / "campaign.yaml").out.strip()
    for _ in range(2):
        cancelled = run("campaign", "cancel", campaign_id, "--json").document
        assert (cancelled["id"], cancelled["status"]) == (campaign_id, "cancelled")


def test_waiting_shows_how_far_it_is(
    services: Services, tenant_id: UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `--wait` shows goes to stderr, and it ends when the campaign is over."""
    given = campaign([{"id": str(n), "product": "mug"} for n in range(2)])
    campaign_id = fanned_out(services, tenant_id, given)
    steps = iter([succeed, fail])

    def work() -> None:
        next(steps)(services, claimed(services, size=1))

    view = watch(services, tenant_id, campaign_id, meanwhile=work)
    out, err = capsys.readouterr()
    assert (view.over, view.done, list(steps)) == (True, 2, [])
    assert out == ""
    assert "2/2" in err
    assert "1 failed" in err


def test_a_job(run: Run, services: Services, tmp_path: Path) -> None:
    """Submit, status, pause, resume, cancel and retry answer with the job."""
    file = write(tmp_path / "job.json", json.dumps(IMAGE_JOB))
    job = run("job", "submit", file, "--json").document
    assert (job["kind"], job["status"]) == ("image", "queued")
    assert run("job", "status", job["id"], "--json").document == job
    assert run("job", "pause", job["id"], "--json").document["wait_reason"] == "pause"
    said = run("job", "status", job["id"]).out
    assert said == f"{job['id']}: image, waiting (pause), attempt 0\n"
    assert run("job", "resume", job["id"], "--json").document["status"] == "queued"
    assert run("job", "cancel", job["id"], "--json").document["status"] == "cancelled"
    assert run("job", "retry", job["id"], "--json").document["status"] == "queued"
    made = succeed(services, claimed(services))
    done = run("job", "status", job["id"], "--json").document
    artifact = done["artifacts"][0]
    assert artifact["size_bytes"] == len(made[UUID(job["id"])])
    assert run("job", "status", job["id"]).out == (
        f"{job['id']}: image, succeeded, attempt 1\n"
        f"  {artifact['object_key']} ({artifact['size_bytes']} bytes, {artifact['sha256']})\n"
    )


def test_a_job_as_the_api_shows_it(run: Run, services: Services, tmp_path: Path) -> None:
    """Both doors tell the same of a job, times included; the API adds links."""
    file = write(tmp_path / "job.json", "\ufeff" + json.dumps(IMAGE_JOB))
    job_id = run("job", "submit", file).out.strip()
    fail(services, claimed(services))
    here = run("job", "status", job_id, "--json").document
    with served(services.settings, new_key(services.engine)) as client:
        there = client.get(f"/v1/jobs/{job_id}").json()
    assert here["finished_at"].replace("+00:00", "Z") == there["finished_at"]
    assert here.keys() == there.keys()
    assert "out_of_memory: too big" in run("job", "status", job_id).out


def test_kinds(run: Run, tmp_path: Path) -> None:
    """Every kind comes with an example that works as it stands."""
    kinds = run("kinds", "--json").document
    assert [kind["name"] for kind in kinds] == [*KINDS, *TRAININGS]
    for kind in kinds[: len(KINDS)]:
        file = write(tmp_path / "example.json", json.dumps(kind["example"]))
        assert run("job", "submit", file, "--json").document["kind"] == kind["name"]
    assert '"prompt"' in run("kinds").out


def test_a_tenants_key_opens_the_api(run: Run, services: Services) -> None:
    """The key is shown once, works at once, and a second one is another key of the same tenant."""
    first = run("tenant", "add", "acme", "--json").document
    second = run("tenant", "add", "acme").out.strip()
    assert first["tenant"] == "acme"
    assert first["api_key"] != second
    with services.engine.begin() as connection:
        assert str(tenants.find(connection, "acme")) == first["id"]
    for key in (first["api_key"], second):
        with served(services.settings, key) as client:
            assert client.get("/v1/jobs").json() == {"jobs": [], "next": None}


@pytest.mark.parametrize("name", ["", " ", "a\udcff"])
def test_names_that_nobody_could_type(run: Run, engine: Engine, name: str) -> None:
    """An empty name, or bytes that are no text, name neither a tenant nor a model."""
    before = rows(engine)
    model = ["model", "add", name, "--source", "hub:a/b@1", "--licence", "MIT"]
    for arguments in (["tenant", "add", name], model):
        said = run(*arguments)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("NAME: ")
    assert rows(engine) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "{file}:1: is not JSON: Expecting property name enclosed in double quotes at"),
        ('{"kind":\n 1,\n "kind": 2}', "{file}: key 'kind' is given twice"),
        ("[]", "{file}: must be an object with kind and request"),
        (b'{"kind":\n"\xff"}', "{file}:2: byte 0xff is not UTF-8; save the file as UTF-8"),
        ('{"kind": "image"}', "{file}: request: is required"),
        (
            '{"kind": "imgae", "request": {}}',
            "{file}: kind: unknown kind 'imgae'; did you mean 'image'?",
        ),
        (
            '{"kind": "image", "request": {"prompt": "x", "steps": -1}}',
            "{file}: request.steps: Input should be greater than or equal to 1",
        ),
        (
            '{"kind": "image", "request": {"prompt": "x", "model": "y"}}',
            "{file}: request.model: unknown model 'y'; known: debug-caption",
        ),
        (
            '{"kind": "image", "request": {"prompt": "x", "size": "9x8"}}',
            "{file}: request.size: 9x8: model 'debug-diffusion' takes sides that are multiples",
        ),
    ],
)
def test_a_bad_job_file(
    run: Run, engine: Engine, tmp_path: Path, content: str | bytes, message: str
) -> None:
    """Each mistake is named with the file and the field on stderr, with exit code 2."""
    file = write(tmp_path / "job.json", content)
    before = rows(engine)
    said = run("job", "submit", file, "--json")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(message.replace("{file}", str(file)))
    assert rows(engine) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 2", "stesp: 2", ":7: creatives[0].stesp: unknown key; did you mean 'steps'?"),
        ("{{ colour }}", "{{ color }}", ":5: creatives[0].prompt: column 'color' is missing in "),
        ("recipients.csv", "none.csv", ":2: recipients.file: {folder}/none.csv cannot be read: No"),
        ("recipients.csv", "bad.csv", "{folder}/bad.csv:3: id: recipient id '1' stands on lines"),
        ("name: Test", "name: [", ":"),
    ],
)
def test_a_bad_campaign_file(
    run: Run, engine: Engine, campaign_folder: Path, *, old: str, new: str, message: str
) -> None:
    """Each mistake is named with file, line and field on stderr, with exit code 2."""
    file = campaign_folder / "campaign.yaml"
    content = file.read_text()
    assert old in content
    write(file, content.replace(old, new))
    write(campaign_folder / "bad.csv", "id,product,colour\n1,mug,blue\n1,cup,red\n")
    before = rows(engine)
    said = run("campaign", "submit", file, "--json")
    expected = message.replace("{folder}", str(campaign_folder))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(expected if expected.startswith("/") else f"{file}{expected}")
    assert "Traceback" not in said.err
    assert rows(engine) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["job", "status"],
        ["job", "cancel"],
        ["job", "retry"],
        ["job", "pause"],
        ["job", "resume"],
        ["campaign", "status"],
        ["campaign", "cancel"],
        ["campaign", "export", "--out", "{out}"],
    ],
)
def test_ids_that_lead_nowhere(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    """An unknown id and a text that is no id are the caller's mistakes: exit code 2."""
    given = [part.replace("{out}", str(tmp_path / "out")) for part in arguments]
    unknown = uuid4()
    said = run(*given, unknown)
    assert (said.code, said.out, said.err) == (2, "", f"there is no {given[0]} {unknown}\n")
    said = run(*given, "seven")
    assert (said.code, said.out) == (2, "")
    assert "valid UUID" in said.err
    assert not (tmp_path / "out").exists()


def test_another_tenants_work_is_not_there(
    run: Run, services: Services, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command acts for one tenant, and one that does not exist is named."""
    campaign_id = fanned_out(services, tenant_id, campaign())
    new_key(services.engine, "other")
    monkeypatch.setenv("PRESSWORK_TENANT", "other")
    assert run("campaign", "status", campaign_id).code == 2
    assert run("campaign", "list", "--json").document == []
    assert run("campaign", "list").out == "no campaigns yet\n"
    monkeypatch.setenv("PRESSWORK_TENANT", "nobody")
    said = run("campaign", "list")
    assert (said.code, said.err) == (
        2,
        "there is no tenant 'nobody', which PRESSWORK_TENANT names\n",
    )


def test_what_the_state_does_not_allow(run: Run, services: Services, tmp_path: Path) -> None:
    """Cancel of a finished job and retry of a queued one say what it is: exit code 2."""
    file = write(tmp_path / "job.json", json.dumps(IMAGE_JOB))
    job_id = run("job", "submit", file).out.strip()
    said = run("job", "retry", job_id, "--json")
    assert (said.code, said.out, said.err) == (2, "", "not possible: it is queued\n")
    succeed(services, claimed(services))
    said = run("job", "cancel", job_id)
    assert (said.code, said.err) == (2, "not possible: it is succeeded\n")


def test_an_export_that_cannot_be_written(
    run: Run, services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """A file where the folder should be is named, without a traceback."""
    campaign_id = fanned_out(services, tenant_id, campaign())
    file = write(tmp_path / "file", "")
    said = run("campaign", "export", campaign_id, "--out", file)
    assert (said.code, said.out) == (2, "")
    assert "--out" in said.err
    assert "Traceback" not in said.err
    said = run("campaign", "export", campaign_id, "--out", file / "below")
    assert (said.code, said.err) == (1, f"{file}/below: Not a directory\n")


def test_an_export_of_other_bytes_than_were_made(
    run: Run, services: Services, tenant_id: UUID, tmp_path: Path
) -> None:
    """A corrupted object, and one that is gone, are named: exit code 1."""
    campaign_id = fanned_out(services, tenant_id, campaign())
    batch = claimed(services)
    succeed(services, batch)
    key = requests.job(services, tenant_id, batch.jobs[0].id).artifacts[0].object_key
    services.objects.put(key, picture(9), "image/png")
    said = run("campaign", "export", campaign_id, "--out", tmp_path / "out", "--json")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"{key} does not have the recorded sha256 ")
    services.objects.delete([key])
    said = run("campaign", "export", campaign_id, "--out", tmp_path / "out", "--json")
    assert (said.code, said.err) == (1, f"the bucket has no object {key} any more\n")


def test_nothing_is_configured(
    run: Run, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without variables and without a stack it is said what is missing: exit code 2."""
    for name in environment:
        if name != "PRESSWORK_DATA":
            monkeypatch.delenv(name)
    said = run("campaign", "list", "--json")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(
        "PRESSWORK_DATABASE_URL, PRESSWORK_BROKER_URL, PRESSWORK_S3_BUCKET not set, and no local "
        "stack is running on "
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRESSWORK_DATABASE_URL", "mysql://u:hidden@h/x"),
        ("PRESSWORK_DATABASE_URL", "postgresql://u:hidden@h:port/x"),
        ("PRESSWORK_BROKER_URL", "http://:hidden@h"),
        ("PRESSWORK_BROKER_URL", "hidden"),
        ("PRESSWORK_S3_ENDPOINT", "hidden"),
        ("PRESSWORK_LEASE_S", "hidden"),
    ],
)
def test_a_setting_that_cannot_be_used(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The variable is named, its value, which may be a secret, is not; even doctor says so."""
    monkeypatch.setenv(name, value)
    for arguments in (["campaign", "list"], ["doctor", "--json"]):
        said = run(*arguments)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"a setting cannot be used:\n{name}: ")
        assert "hidden" not in said.err


def test_the_database_is_down(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in words, with who may know more: exit code 1, no traceback."""
    port = ports.choose(["database"], {})["database"]
    monkeypatch.setenv("PRESSWORK_DATABASE_URL", f"postgresql://u:hidden@127.0.0.1:{port}/x")
    said = run("campaign", "list", "--json")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("the database does not answer or is not migrated: connection")
    assert said.err.endswith("`presswork doctor` looks at each service\n")
    assert "hidden" not in said.err


def test_migrate(run: Run, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A new database gets the newest schema and a tenant, as often as it is asked for."""
    url = environment["PRESSWORK_DATABASE_URL"]
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS fresh"))
        connection.execute(text("CREATE DATABASE fresh"))
    monkeypatch.setenv("PRESSWORK_DATABASE_URL", f"{url.rpartition('/')[0]}/fresh")
    try:
        said = run("campaign", "list")
        assert (said.code, "is not migrated" in said.err) == (1, True)
        for _ in range(2):
            answer = run("migrate", "--json").document
            assert answer == {"revision": database.newest_revision()}
        assert run("campaign", "list", "--json").document == []
        assert run("migrate").out == f"the schema is at {database.newest_revision()}\n"
    finally:
        with admin.connect() as connection:
            connection.execute(text("DROP DATABASE fresh"))
        admin.dispose()


def test_every_command_has_help(run: Run) -> None:
    """`--help` works everywhere, and says what each of the promised commands does."""
    commands = [
        *(f"campaign {name}" for name in ("submit", "status", "list", "export", "cancel")),
        *(f"job {name}" for name in ("submit", "status", "pause", "resume", "cancel", "retry")),
        *("kinds", "tenant add", "doctor", "migrate"),
        *(f"model {name}" for name in ("add", "list", "show", "check", "retire")),
    ]
    for command in commands:
        said = run(*command.split(), "--help")
        assert (said.code, said.err) == (0, "")
        assert "--json" in said.out


def test_a_command_that_does_not_exist(run: Run) -> None:
    """A misspelt command or option is a mistake of the caller's: exit code 2, on stderr."""
    for arguments in (["campain"], ["campaign", "sumbit"], ["kinds", "--jsno"]):
        said = run(*arguments)
        assert (said.code, said.out) == (2, "")
        assert "No such" in said.err


def test_the_installed_command() -> None:
    """What is installed as ``presswork`` is what explains errors, and not the bare commands."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    script = EntryPoint("presswork", project["scripts"]["presswork"], "console_scripts")
    assert script.load() is main


def process(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """The command as a process of its own, with nothing but these variables."""
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
        env={
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PATH": os.environ["PATH"],
            **environment,
        },
        capture_output=True,
        check=False,
    )


def test_a_process_answers_with_one_document(
    environment: dict[str, str], services: Services, tenant_id: UUID
) -> None:
    """Stdout is JSON in UTF-8 and nothing else, also where the shell has no locale."""
    fanned_out(services, tenant_id, campaign(name="Frühling 🎁"))
    done = process(environment, "campaign", "list", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert [found["name"] for found in json.loads(done.stdout.decode())] == ["Frühling 🎁"]


def test_a_process_without_a_broker(
    environment: dict[str, str], engine: Engine, tmp_path: Path
) -> None:
    """The job is queued and the answer is clean: what was logged about it is on stderr."""
    port = ports.choose(["broker"], {})["broker"]
    file = write(tmp_path / "job.json", json.dumps(IMAGE_JOB))
    cut_off = {**environment, "PRESSWORK_BROKER_URL": f"redis://127.0.0.1:{port}/0"}
    done = process(cut_off, "job", "submit", file, "--json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "queued")
    assert b"the broker does not serve wake-ups" in done.stderr
    assert rows(engine)["jobs"] == 1


def test_a_process_refuses_bad_input(environment: dict[str, str], tmp_path: Path) -> None:
    """Exit code 2, a line on stderr, nothing on stdout."""
    file = write(tmp_path / "job.json", "{}")
    done = process(environment, "job", "submit", file, "--json")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"{file}: kind: is required\n{file}: request: is required\n"


def test_cancelled_jobs_are_counted(run: Run, services: Services, tenant_id: UUID) -> None:
    """After the sweeper has been by, a cancelled campaign shows what became of its jobs."""
    campaign_id = fanned_out(services, tenant_id, campaign())
    run("campaign", "cancel", campaign_id)
    cancel.cancel_flagged(services.engine)
    assert run("campaign", "status", campaign_id).out == (
        f"Spring ({campaign_id}): cancelled, 1 of 1 jobs done\n  1 cancelled\n"
    )
