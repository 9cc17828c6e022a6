"""Watching a campaign: one bar with done and total, failures, rate and time left."""

import time
from collections.abc import Callable
from uuid import UUID

from rich.progress import BarColumn, Progress, TextColumn

from jobs import requests
from jobs.cli.output import notes
from jobs.services import Services
from storage.lifecycle import CampaignStatus, JobStatus
from storage.views import CampaignView

LOOK_S = 0.5


def watch(
    services: Services,
    tenant_id: UUID,
    campaign_id: UUID,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> CampaignView:
    """Show a bar until the campaign is over; ``meanwhile`` is called every half second."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[facts]}"),
        console=notes,
    ) as bar:
        task = bar.add_task("compiling", total=1, facts="")
        while True:
            view = requests.campaign(services, tenant_id, campaign_id)
            bar.update(
                task,
                description=f"{view.name}: {view.status}",
                completed=view.done,
                total=view.jobs or view.recipients,
                facts=_facts(view),
            )
            if view.over:
                return view
            meanwhile()
            time.sleep(LOOK_S)


def _facts(view: CampaignView) -> str:
    facts = [f"{view.counts[JobStatus.FAILED]} failed"]
    if view.rate:
        facts.append(f"{view.rate:.1f}/s")
    if view.left_s is not None:
        minutes, seconds = divmod(round(view.left_s), 60)
        facts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(facts)


def summary(view: CampaignView) -> str:
    """The campaign in a few lines."""
    counts = ", ".join(f"{n} {status.value}" for status, n in view.counts.items() if n)
    text = f"{view.name} ({view.id}): {view.status.value}, {view.done} of {view.jobs} jobs done"
    if counts:
        text += f"\n  {counts}"
    if view.status is not CampaignStatus.FINISHED and view.rate:
        text += f"\n  {_facts(view)}"
    if view.closes_at and not view.over:
        closes = view.closes_at.isoformat()
        if view.reopens_at:
            text += f"\n  run window: closes {closes}, opens {view.reopens_at.isoformat()}"
        else:
            text += f"\n  closes {closes}: what has not started by then expires"
    return text
