"""The secrets of one data directory: its servers' passwords, and its first API key."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.stackfile import write_private


@dataclass(frozen=True, repr=False)
class Credentials:
    """URL-safe, so that they may stand in a connection URL as they are."""

    postgres_password: str
    valkey_password: str
    s3_access_key_id: str
    s3_secret_access_key: str
    api_key: str
    signing_key: str


def load(data: Path) -> Credentials:
    """The credentials of ``data``, made at random the first time.

    A directory of an earlier release lacks some; they are added.
    """
    path = data / "credentials.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    made = Credentials(
        postgres_password=secrets.token_urlsafe(24),
        valkey_password=secrets.token_urlsafe(24),
        s3_access_key_id=secrets.token_hex(10).upper(),
        s3_secret_access_key=secrets.token_urlsafe(30),
        api_key="pw_" + secrets.token_urlsafe(32),
        signing_key=secrets.token_urlsafe(32),
    )
    known = asdict(made) | kept
    if known != kept:
        write_private(path, json.dumps(known, indent=2))
    return Credentials(**known)
