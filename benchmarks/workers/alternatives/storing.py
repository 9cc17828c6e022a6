"""What all alternatives share: what they are told, and how they store, to the same S3 and SQL."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Self

import boto3
import numpy as np
import psycopg
from numpy.typing import NDArray
from PIL import Image

from benchmarks.workers.loads import Load, Picture

VARIABLE = "BENCHMARK_ORDER"
TABLE = """
    CREATE TABLE IF NOT EXISTS made (
        run text, number int, object_key text NOT NULL, sha256 text NOT NULL, size_bytes int,
        finished_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (run, number)
    )
"""
INSERT = """
    INSERT INTO made (run, number, object_key, sha256, size_bytes) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
UPLOADS = 4
"""Threads that encode and upload, as many as the worker has."""


@dataclass(frozen=True)
class Order:
    """What a process of an alternative is told, in its environment."""

    load: Load
    database_url: str
    broker_url: str
    s3: dict[str, str]
    bucket: str
    port: int = 0
    processes: int = 1

    def as_environment(self) -> dict[str, str]:
        """For its process."""
        return {VARIABLE: json.dumps({**asdict(self), "load": self.load.as_json()})}

    @classmethod
    def given(cls) -> Self:
        """In its process."""
        values: dict[str, Any] = json.loads(os.environ[VARIABLE])
        return cls(**{**values, "load": Load.from_json(values["load"])})


def sent(run: str, picture: Picture) -> dict[str, Any]:
    """A picture that is asked for, as a message."""
    return {"run": run, **asdict(picture)}


def received(message: dict[str, Any]) -> tuple[str, Picture]:
    """The same on the other side."""
    fields = dict(message)
    return fields.pop("run"), Picture(**fields)


class Store:
    """Files to the bucket, rows to a table, by boto3 and psycopg alone."""

    def __init__(self, order: Order) -> None:
        self._s3 = boto3.client("s3", **order.s3)  # type: ignore[call-overload]
        self._bucket = order.bucket
        self._database = psycopg.connect(order.database_url, autocommit=True)
        self._threads = ThreadPoolExecutor(UPLOADS)

    def save(self, run: str, picture: Picture, data: bytes) -> None:
        """One picture: one object, one row."""
        self._database.execute(INSERT, self._put(run, picture, data))

    def save_all(self, made: Iterable[tuple[str, Picture, NDArray[np.uint8]]]) -> None:
        """A batch: encoded and uploaded in threads, and one transaction for all of its rows."""
        rows = list(self._threads.map(lambda each: self._encoded(*each), made))
        with self._database.transaction(), self._database.cursor() as cursor:
            cursor.executemany(INSERT, rows)

    def _encoded(self, run: str, picture: Picture, array: NDArray[np.uint8]) -> Sequence[Any]:
        buffer = BytesIO()
        Image.fromarray(array).save(buffer, "PNG", compress_level=1)
        return self._put(run, picture, buffer.getvalue())

    def _put(self, run: str, picture: Picture, data: bytes) -> Sequence[Any]:
        digest = hashlib.sha256(data).hexdigest()
        key = f"alternatives/{run}/{picture.number}-{digest[:16]}.png"
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType="image/png")
        return run, picture.number, key, digest, len(data)
