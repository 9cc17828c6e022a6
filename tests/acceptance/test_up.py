"""`presswork up`: one per data directory, stopped in order, found again, never left behind."""

import json
import time
from pathlib import Path

import httpx
import psutil

from jobs.processes import wait_gone
from tests.acceptance.stack import (
    STOP_LIMIT_S,
    command,
    presswork,
    up,
    write_campaign,
)
from workers.main import OFFLINE


def test_up(tmp_path: Path) -> None:
    """Stopping takes under five seconds; killing leaves no orphans; campaigns are found again.

    Workers are offline, and the stack's key is an administrator's.
    """
    data, log = tmp_path / "data", tmp_path / "up.log"
    file = write_campaign(tmp_path, 2, steps=1)
    with up(data, log) as first:
        assert (data / "stack.json").stat().st_mode & 0o777 == 0o600
        finished = presswork("campaign", "submit", str(file), "--wait", data=data)
        assert (finished["status"], finished["done"]) == ("finished", 2)
        assert all(finding["ok"] for finding in presswork("doctor", data=data))

        second = command("up", "--data", str(data), timeout_s=30)
        assert second.returncode == 1
        assert f"already running: process {first.process.pid}" in second.stderr

        listening = [
            connection.laddr.ip
            for process in [*first.processes(), psutil.Process(first.process.pid)]
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {"127.0.0.1"}
        workers = [each for each in first.processes() if "--slot" in each.cmdline()]
        assert workers
        assert all(each.environ().items() >= OFFLINE.items() for each in workers)
        stack = json.loads((data / "stack.json").read_text())
        headers = {"Authorization": f"Bearer {stack['api_key']}"}
        url = f"{stack['api_url']}/v1/models/nobody/retire"
        assert httpx.post(url, headers=headers).status_code == 404

        left = first.processes()
        began = time.monotonic()
        first.stop()
        assert time.monotonic() - began < STOP_LIMIT_S
        assert all(wait_gone(process, 0) for process in left)
        assert not (data / "stack.json").exists()

    with up(data, log) as again:
        assert [each["id"] for each in presswork("campaign", "list", data=data)] == [finished["id"]]
        left = again.processes()
        again.process.kill()
        again.process.wait()

    with up(data, log) as third:
        assert all(wait_gone(process, STOP_LIMIT_S) for process in left)
        shown = presswork("campaign", "status", finished["id"], data=data)
        assert shown["status"] == "finished"
        third.stop()
