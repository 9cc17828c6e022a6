"""How our processes log: one line a record, to standard error."""

import logging


def set_up_logging() -> None:
    """To be called once by each program."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    # One line per request of every upload is of no use.
    for name in ("botocore", "boto3", "urllib3", "httpx", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
