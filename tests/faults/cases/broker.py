"""Wake-ups are lost or come in heaps, and Valkey dies, forgets, or is full."""

import shutil
from contextlib import suppress
from functools import partial
from uuid import uuid4

import httpx
import redis

from jobs.kinds import KINDS
from tests.faults.house import House
from tests.faults.trial import Case, Trial

JOBS = 6


def wake_up_lost(trial: Trial) -> None:
    """The only wake-up dies with the worker that has just taken it, and nobody remembers it."""
    trial.order("claimed", "hold")
    trial.submit()
    worker = trial.done("claimed")
    with trial.house.broker() as broker:
        broker.flushall()
    trial.fault_at = trial.house.kill(worker.slot)


def wake_ups_tenfold(trial: Trial) -> None:
    """Every wake-up is delivered ten times at once."""
    trial.order("claimed", "note")
    trial.submit(24)
    trial.house.services.wake_ups.send("default", 20)
    trial.done("claimed")
    trial.house.services.wake_ups.send("default", 20)


def killed(trial: Trial, *, forget: bool) -> None:
    """Valkey is killed in the middle of a batch and comes back, with or without its file."""
    trial.order("denoising", "hold")
    trial.submit(24)
    trial.done("denoising")
    trial.fault_at = trial.house.kill("valkey")
    if forget:
        for path in (trial.house.servers.data / "valkey").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    trial.house.orders.release("denoising")
    _wait_for_broker(trial.house)


def flushed(trial: Trial) -> None:
    """FLUSHALL, over and over while work is queued and done."""
    trial.order("denoising", "note")
    trial.submit(24)
    trial.done("denoising")
    with trial.house.broker() as broker:
        trial.until(lambda: broker.flushall() and trial.ended(), "the jobs are done")


def full(trial: Trial) -> None:
    """Valkey is at its memory's limit: the API still takes work, and it is done."""
    house = trial.house
    with house.broker() as broker:
        broker.config_set("maxmemory-policy", "noeviction")
        broker.config_set("maxmemory", "1")
        try:
            trial.fault_at = _post_jobs(trial)
            trial.until(trial.ended, "the jobs are done without a broker")
        finally:
            broker.config_set("maxmemory", "0")


def deaf_consumer(trial: Trial) -> None:
    """A worker's connections to Valkey hang without a word; the work is done all the same."""
    trial.order("denoising", "note")
    trial.submit(24)
    worker = trial.done("denoising")
    valkey = trial.house.proxies[worker.slot].valkey
    valkey.pause()
    trial.until(trial.ended, "the jobs are done")
    valkey.cut()
    valkey.resume()


def api_dies(trial: Trial) -> None:
    """The API is killed after its COMMIT and before the wake-up; the same request is sent again."""
    house = trial.house
    trial.order("before-wake-up", "kill-child")
    key = {"Idempotency-Key": str(uuid4())}
    with httpx.Client(base_url=house.api_url, headers=_authorised(house)) as client:
        trial.until(partial(_answers, client), "the API is up")
        with suppress(httpx.TransportError):  # it dies before it can answer
            client.post("/v1/jobs", json=_job(), headers=key, timeout=30)
        trial.done("before-wake-up")
        trial.until(partial(_answers, client), "the API is up again")
        answer = client.post("/v1/jobs", json=_job(), headers=key, timeout=30)
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    trial.expect_id(answer.json()["id"])
    with house.engine.begin() as connection:
        submitted = connection.exec_driver_sql(
            "SELECT count(*) FROM jobs WHERE idempotency_key = %s", (key["Idempotency-Key"],)
        ).scalar()
    assert submitted == 1, "the job was lost, or made twice"


def _post_jobs(trial: Trial) -> float:
    house = trial.house
    with httpx.Client(base_url=house.api_url, headers=_authorised(house)) as client:
        trial.until(partial(_answers, client), "the API is up")
        for _ in range(JOBS):
            answer = client.post("/v1/jobs", json=_job(), timeout=30)
            assert answer.status_code == httpx.codes.ACCEPTED, answer.text
            trial.expect_id(answer.json()["id"])
    return trial.now()


def _job() -> dict[str, object]:
    request = {**KINDS["image"].example, "size": "64x64", "steps": 4}
    return {"kind": "image", "request": request}


def _authorised(house: House) -> dict[str, str]:
    return {"Authorization": f"Bearer {house.api_key}"}


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _wait_for_broker(house: House) -> None:
    def answers() -> bool:
        try:
            with house.broker() as broker:
                return bool(broker.ping())
        except redis.RedisError:
            return False

    house.until(answers, "Valkey is back")


CASES: dict[str, Case] = {
    "wake-up-lost": wake_up_lost,
    "wake-ups-tenfold": wake_ups_tenfold,
    "valkey-killed-with-file": partial(killed, forget=False),
    "valkey-killed-without-file": partial(killed, forget=True),
    "valkey-flushed": flushed,
    "valkey-full": full,
    "consumer-deaf": deaf_consumer,
    "api-dies-before-wake-up": api_dies,
}
