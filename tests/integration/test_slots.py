"""Slots of one machine, as they are run: side by side, and started again after a crash."""

import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psutil
from sqlalchemy import Engine

from jobs import machine
from jobs.devices import parse_devices
from jobs.services import Services
from jobs.standalone import Servers
from storage import workers
from tests.integration.batches import jobs, submit
from tests.integration.ledger_cases import rows
from tests.waiting import until

ROOT = Path(__file__).parents[2]


@contextmanager
def supervisor(log: Path, devices: str, environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """``presswork worker --devices``, without the settings of the shell around us."""
    shell = {name: value for name, value in os.environ.items() if "PRESSWORK" not in name}
    command = [sys.executable, "-m", "workers.main", "--devices", devices, "--grace-s", "5"]
    with log.open("wb") as output:
        started = subprocess.Popen(
            [*command, "--logs", str(log.parent / "logs")],
            stdout=output,
            stderr=output,
            env={**shell, "PYTHONPATH": str(ROOT), **environment},
            cwd=log.parent,
        )
    try:
        yield psutil.Process(started.pid)
    finally:
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == 0


def slot_processes(supervising: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Each slot's process, and its child."""
    found = {}
    for process in supervising.children():
        words = process.cmdline()
        if "--slot" in words:
            found[words[words.index("--slot") + 1]] = [process, *process.children()]
    return found


def written(process: psutil.Process) -> set[str]:
    """The files that it has open to write to, but locks: these are there to be shared."""
    try:
        opened = process.open_files()
    except psutil.NoSuchProcess:
        return set()
    return {one.path for one in opened if one.mode != "r" and not one.path.endswith(".lock")}


def pictures(count: int, **fields: object) -> list[dict[str, object]]:
    """So many requests."""
    return [dict(fields) for _ in range(count)]


def test_two_slots(
    servers: Servers, services: Services, tenant_id: UUID, engine: Engine, tmp_path: Path
) -> None:
    """They share a queue and nothing else, and whichever process of theirs dies comes back."""
    log = tmp_path / "supervisor.log"
    environment = {
        **servers.environment,
        "PRESSWORK_CACHE_DIR": str(services.settings.cache_dir),
        "PRESSWORK_IDLE_LOOK_S": "0.5",
        "PRESSWORK_LEASE_S": "3",
        "PRESSWORK_BATCH_SIZE": "1",
    }
    slots = {slot.name: slot for slot in parse_devices("cpu:2")}
    names = {slot.worker_name for slot in slots.values()}
    with supervisor(log, "cpu:2", environment) as supervising:

        def pids() -> dict[str, int]:
            """The children's, of the workers that are up."""
            found = rows(engine, "SELECT device, pid FROM workers")
            return {row.device: row.pid for row in found}

        until(lambda: names == {*workers.live(engine, within_s=5)}, what="both")
        ids = submit(services, tenant_id, *pictures(8, steps=20))
        files: dict[str, set[str]] = defaultdict(set)

        def look_at_files() -> bool:
            for name, processes in slot_processes(supervising).items():
                for process in processes:
                    files[name] |= written(process)
            return all(jobs(engine)[job][0] == "succeeded" for job in ids)

        until(look_at_files, what=f"all jobs; see {tmp_path}")
        made_by = rows(engine, "SELECT DISTINCT facts ->> 'worker' AS name FROM artifacts")
        assert {row.name for row in made_by} == names
        logs = {name: str(tmp_path / "logs" / f"worker-{name}.log") for name in slots}
        assert {name: log in files[name] for name, log in logs.items()} == dict.fromkeys(
            slots, True
        )
        assert not files["cpu-0"] & files["cpu-1"]
        for name, (process, child) in slot_processes(supervising).items():
            assert process.cpu_affinity() == child.cpu_affinity() == [*slots[name].cores]
            assert child.environ()["OMP_NUM_THREADS"] == str(slots[name].threads)
        if len(machine.cores()) > 1:
            assert not {*slots["cpu-0"].cores} & {*slots["cpu-1"].cores}
        until(
            lambda: all(one.models for one in workers.listed(engine, within_s=60)),
            what="a beat after the model was loaded",
        )
        for worker in workers.listed(engine, within_s=60):
            assert worker.is_up
            assert worker.models == ["debug-diffusion"]
            assert 0 < (worker.memory_used_bytes or 0) < (worker.memory_total_bytes or 0)
            assert worker.memory_total_bytes == machine.memory_bytes() // 2

        before = pids()
        submit(services, tenant_id, *pictures(2, steps=1000))
        until(
            lambda: {job[0] for job in jobs(engine).values()} == {"succeeded", "running"},
            what="both at work",
        )
        now = slot_processes(supervising)
        now["cpu-0"][1].kill()  # the child alone: Celery starts another
        now["cpu-1"][0].kill()  # the slot: the supervisor does
        until(
            lambda: not {*before.items()} & {*pids().items()} and len(pids()) == len(slots),
            what=f"both again; see {tmp_path}",
        )
    said = log.read_text()
    assert "worker cpu-1 ended with exit code -9, starting it again in 0.5 s" in said
    assert "worker cpu-0 ended" not in said
    until(
        lambda: "died at work: claiming nothing for 1 s" in Path(logs["cpu-0"]).read_text(),
        what="that it claims nothing at first",
    )


def test_a_slot_that_cannot_start(tmp_path: Path) -> None:
    """It is started again after a delay that doubles."""
    log = tmp_path / "supervisor.log"

    def delays() -> list[str]:
        return re.findall("cpu-0 ended with exit code 1, .* again in (.*) s", log.read_text())

    with supervisor(log, "cpu", {"PRESSWORK_DATA": str(tmp_path)}):
        until(lambda: delays()[:2] == ["0.5", "1.0"], what=f"two crashes; see {log}")
    assert "PRESSWORK_DATABASE_URL" in (tmp_path / "logs" / "worker-cpu-0.log").read_text()


BROKEN = "import sys; sys.modules['workers.loop'] = None; from workers.main import main; main()"


def test_a_child_that_cannot_start_ends_its_worker(servers: Servers, tmp_path: Path) -> None:
    """A worker whose libraries are broken is not left to sit there and do nothing."""
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, "--slot", "cpu-0"],
        env={**os.environ, **servers.environment, "PRESSWORK_POOL": "broken"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"the child cannot start: ending this worker" in done.stderr
