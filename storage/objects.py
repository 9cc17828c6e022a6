"""The S3 client, the key scheme and presigned links. The only place that makes a boto3 client."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MEDIA_SUFFIX = {"image/png": "png"}


class ObjectStoreError(Exception):
    """The store did not answer, or refused."""


class ObjectMissingError(ObjectStoreError):
    """The bucket has no object under this key."""


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ObjectStoreError(str(error)) from error


def sha256_hex(body: bytes) -> str:
    """The digest under which an artifact is recorded."""
    return hashlib.sha256(body).hexdigest()


def artifact_key(claim_id: UUID, job_id: UUID, index: int, sha256: str, media_type: str) -> str:
    """Where an artifact lies.

    The claim comes first, so that what a lost claim left behind is one LIST; the digest makes a
    late upload by a worker that lost its lease land beside the good object, never on it.
    """
    suffix = MEDIA_SUFFIX[media_type]
    return f"artifacts/{claim_id}/{job_id}-{index}-{sha256[:16]}.{suffix}"


@dataclass(frozen=True)
class ObjectStore:
    """One bucket. Without a key pair, boto3's own chain finds credentials and region.

    Methods raise `ObjectStoreError`, after four tries where trying again may help.
    """

    endpoint: str | None
    bucket: str
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)

    @cached_property
    def _client(self) -> "S3Client":
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(
                # Presigned links are refused by most servers with the older signature.
                signature_version="s3v4",
                s3={"addressing_style": "path" if self.endpoint else "auto"},
                retries={"mode": "standard", "total_max_attempts": 4},
                connect_timeout=5,
                read_timeout=30,
                max_pool_connections=32,
            ),
        )
        return client

    def ensure_bucket(self) -> None:
        """Create the bucket where it does not exist yet."""
        with _own_errors():
            self._ensure_bucket()

    def _ensure_bucket(self) -> None:
        try:
            self._client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if _status(error) != 404:  # noqa: PLR2004 (an HTTP status)
                raise
            try:
                self._client.create_bucket(Bucket=self.bucket)
            except (
                self._client.exceptions.BucketAlreadyOwnedByYou,
                self._client.exceptions.BucketAlreadyExists,
            ):
                return  # another process was faster

    def put(self, key: str, body: bytes, media_type: str) -> None:
        """Store ``body`` under ``key``; the server checks what arrived against its digest."""
        with _own_errors():
            self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=body,
                ContentType=media_type,
                ChecksumAlgorithm="SHA256",
            )

    def get(self, key: str) -> bytes:
        """The object's bytes; `ObjectMissingError` where there is none."""
        with _own_errors():
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
            except self._client.exceptions.NoSuchKey as error:
                raise ObjectMissingError(key) from error
            body: bytes = answer["Body"].read()
        return body

    def delete(self, keys: Sequence[str]) -> None:
        """Delete up to 1000 objects; those that do not exist are ignored."""
        if not keys:
            return
        with _own_errors():
            self._client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
            )

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below ``prefix``."""
        pages = self._client.get_paginator("list_objects_v2")
        with _own_errors():
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield item["Key"]

    def presigned_get(self, key: str, *, filename: str, media_type: str, expires_s: int) -> str:
        """A link that downloads one object without credentials for ``expires_s`` seconds."""
        link: str = self._client.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self.bucket,
                "Key": key,
                "ResponseContentType": media_type,
                "ResponseContentDisposition": f'inline; filename="{filename}"',
            },
            ExpiresIn=expires_s,
        )
        return link


def _status(error: ClientError) -> int:
    metadata: dict[str, Any] = dict(error.response.get("ResponseMetadata", {}))
    return int(metadata.get("HTTPStatusCode", 0))
