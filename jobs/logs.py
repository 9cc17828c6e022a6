"""How our processes log: one line a record, to standard error."""

import logging


def set_up_logging(level: int = logging.INFO) -> None:
    """To be called once by each program."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    # A line per request or statement of a library's own is of no use to who runs us.
    for name in ("alembic", "botocore", "boto3", "urllib3", "httpx", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
