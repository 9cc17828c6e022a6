"""Creates a campaign through the door, and as a program says how much memory that took at most."""

import re
import resource
import sys
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from jobs.campaigns import file as campaign_file
from jobs.files import RecipientsFile
from jobs.maintenance.fanout import fan_out_campaigns
from jobs.services import Services, open_services
from jobs.settings import Settings
from jobs.submissions import submit_campaign
from storage import tenants

CAMPAIGN = campaign_file.parse_yaml(
    """
    name: Benchmark
    recipients: {file: recipients.csv, id: id}
    creatives:
      - name: hero
        prompt: "{{ product }} for {{ name }} in {{ city }}"
        size: 64x64
        steps: 1
    """,
    "campaign.yaml",
)


def submit_with_templates(services: Services, csv: BinaryIO) -> UUID:
    """Submit a campaign whose recipients come as a CSV file."""
    with services.engine.begin() as connection:
        tenant_id = tenants.ensure(connection, services.settings.tenant)
    return submit_campaign(services, tenant_id, CAMPAIGN, RecipientsFile("recipients.csv", csv))


def create_with_templates(services: Services, csv: BinaryIO) -> None:
    """The same, and make its jobs."""
    submit_with_templates(services, csv)
    fan_out_campaigns(services.engine, services.wake_ups)


def main() -> None:
    """``python -m benchmarks.ledger.memory RECIPIENTS.csv`` prints a number of MiB."""
    with (
        open_services(Settings(), "benchmark") as services,
        Path(sys.argv[1]).open("rb") as csv,
    ):
        create_with_templates(services, csv)
    print(_peak_mib())


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which begins with that of the process that started this one.
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(), flags=re.MULTILINE)
        return int(peak) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS


if __name__ == "__main__":
    main()
