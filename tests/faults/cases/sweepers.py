"""Two sweepers fire and fan out at once, and one of them dies in the middle of it."""

from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import text

from jobs.schedules import file, requests
from storage import schedules
from tests.faults.trial import Case, Trial

SCHEDULES = 4
RECIPIENTS = 3
SWEEPS = 3


def two_schedulers(trial: Trial) -> None:
    """Schedules come due while two sweepers look for them: each fires once and only once."""
    _watch_once(trial, _add(trial, SCHEDULES))


def scheduler_dies(trial: Trial) -> None:
    """A sweeper is killed between a run's firing and the COMMIT that stores its campaign."""
    trial.order("store-commit", "kill-child")
    names = _add(trial, 1)
    trial.done("store-commit")
    _watch_once(trial, names)


def _watch_once(trial: Trial, names: list[str]) -> None:
    """Each schedule has started one campaign, and no other comes while both sweepers look on."""
    trial.until(lambda: _started(trial, names).keys() == set(names), "every schedule has fired")
    for campaigns in _started(trial, names).values():
        for campaign_id in campaigns:
            trial.watch(campaign_id, RECIPIENTS)
    trial.until(trial.ended, "the jobs are done")
    over = trial.now() + SWEEPS * trial.house.settings.sweep_s
    trial.until(lambda: trial.now() > over, "the sweepers have looked again")
    times = {name: len(campaigns) for name, campaigns in _started(trial, names).items()}
    assert times == dict.fromkeys(names, 1), f"started more than once: {times}"


def fan_out_dies(trial: Trial) -> None:
    """A sweeper is killed before the COMMIT that makes a campaign's jobs visible: all or none."""
    trial.order("fan-out-commit", "kill-child")
    trial.submit()
    trial.done("fan-out-commit")


def _add(trial: Trial, count: int) -> list[str]:
    """Schedules that came due a second ago, when no sweeper could know of them."""
    names = [f"nightly-{uuid4()}" for _ in range(count)]
    services, tenant_id = trial.house.services, trial.house.tenant_id
    for name in names:
        spec = file.from_mapping(
            {
                "name": name,
                "cron": "0 1 * * *",
                "timezone": "Europe/Berlin",
                "campaign": {
                    "name": name,
                    "recipients": {"id": "id", "rows": [{"id": n} for n in range(RECIPIENTS)]},
                    "creatives": [{"name": "hero", "prompt": "a mug", "size": "64x64", "steps": 2}],
                },
            }
        )
        requests.add(services, tenant_id, spec)
    # In one statement, so that the sweepers see all of them at the same moment.
    with services.engine.begin() as connection:
        due = schedules.now(connection) - timedelta(seconds=1)
        connection.execute(
            text("UPDATE schedules SET next_fire_at = :due WHERE name = ANY(:names)"),
            {"due": due, "names": names},
        )
    return names


def _started(trial: Trial, names: list[str]) -> dict[str, list[UUID]]:
    """The campaigns that each schedule has started, by their own rows and not by the runs'."""
    with trial.house.engine.begin() as connection:
        rows = connection.execute(
            text("SELECT name, id FROM campaigns WHERE name = ANY(:names)"), {"names": names}
        )
        found: dict[str, list[UUID]] = {}
        for name, campaign_id in rows:
            found.setdefault(name, []).append(campaign_id)
        return found


CASES: dict[str, Case] = {
    "two-schedulers": two_schedulers,
    "scheduler-dies": scheduler_dies,
    "fan-out-dies": fan_out_dies,
}
