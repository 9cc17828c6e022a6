"""The process that serves HTTP: ``python -m jobs.web``."""

import argparse

import uvicorn

from jobs import settings
from jobs.api.app import make_app
from jobs.logs import set_up_logging
from jobs.processes import end_with_stack

GRACE_S = 2


def main() -> None:
    """Answer requests until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m jobs.web")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    end_with_stack()
    set_up_logging()
    uvicorn.run(
        make_app(settings.load()),
        host=arguments.host,
        port=arguments.port,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    main()
