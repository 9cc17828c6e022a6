"""A worker as it is run, on a device that fails at every job whose prompt is ``poison``.

Run as ``python -m tests.integration.failing_worker --slot cpu-0``.
"""

from tests.integration.batches import Generating, assert_on_device
from workers.families.diffusion import generate
from workers.main import main


def fail(prompts: list[str]) -> None:
    """End the device's context."""
    if "poison" in prompts:
        assert_on_device()


if __name__ == "__main__":
    generate.generate = Generating(fail)  # type: ignore[assignment]
    main()
