"""The S3 client, the key scheme and presigned links. The only place that makes a boto3 client."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import UUID

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.client import S3Client

READ_BYTES = 1024 * 1024

MEDIA_SUFFIX = {
    "application/json": "json",
    "application/vnd.safetensors": "safetensors",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "text/markdown; charset=utf-8": "md",
    "text/plain; charset=utf-8": "txt",
    "video/mp4": "mp4",
}
"""What outputs may be, and how their names end."""

MIB = 1024 * 1024
MULTIPART_FROM_BYTES = 16 * MIB
"""From this size on an object goes up in parts, so that a fault costs one part and not all."""
PART_BYTES = 8 * MIB
PARTS_AT_ONCE = 4
READ_TIMEOUT_S = 30
"""How long the store may be silent. A large part may keep it busy for seconds."""
SKEWED = "RequestTimeTooSkewed"
"""S3's word for a request whose time is more than 15 minutes off."""


class ObjectStoreError(Exception):
    """The store did not answer, or refused."""


class ObjectMissingError(ObjectStoreError):
    """The bucket has no object under this key."""


class ClockSkewError(ObjectStoreError):
    """The store refuses what this machine signs: its clock is off. Waiting does not help."""


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == SKEWED:
            message = "the store refuses requests signed at this machine's time: set its clock"
            raise ClockSkewError(message) from error
        raise ObjectStoreError(str(error)) from error


@dataclass(frozen=True)
class OpenObject:
    """An object that is being read; ``etag`` changes with its content."""

    stream: BinaryIO
    etag: str


class _Body(io.RawIOBase):
    """An answer's bytes as they arrive; one that is cut off is an `ObjectStoreError`."""

    def __init__(self, body: "StreamingBody") -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _own_errors():
            data = self._body.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def sha256_hex(body: bytes) -> str:
    """The digest under which an artifact is recorded."""
    return hashlib.sha256(body).hexdigest()


def artifact_key(claim_id: UUID, job_id: UUID, index: int, sha256: str, media_type: str) -> str:
    """Where an artifact lies.

    The claim comes first, so that what a lost claim left behind is one LIST; the digest makes a
    late upload by a worker that lost its lease land beside the good object, never on it.
    """
    suffix = MEDIA_SUFFIX[media_type]
    return f"{claim_prefix(claim_id)}{job_id}-{index}-{sha256[:16]}.{suffix}"


def model_key(sha256: str) -> str:
    """Where a file of a model lies, whatever models it belongs to: it never changes."""
    return f"models/sha256/{sha256}"


def claim_prefix(claim_id: UUID) -> str:
    """Below which all lies that was made under a claim."""
    return f"artifacts/{claim_id}/"


def training_prefix(job_id: UUID) -> str:
    """Below which all lies that a training keeps: checkpoints, samples, logs."""
    return f"trainings/{job_id}/"


def picture_key(tenant_id: UUID, sha256: str) -> str:
    """Where a tenant's uploaded picture lies: below a prefix that no other tenant can name."""
    return f"pictures/{tenant_id}/{sha256}.png"


@dataclass(frozen=True)
class ObjectStore:
    """One bucket. Without a key pair, boto3's own chain finds credentials and region.

    Methods raise `ObjectStoreError`, after ``tries`` where trying again may help: a try ends when
    the store is silent for `READ_TIMEOUT_S`, and between two lie at most a few seconds.
    """

    endpoint: str | None
    bucket: str
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    tries: int = 4

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
                retries={"mode": "standard", "total_max_attempts": self.tries},
                connect_timeout=5,
                read_timeout=READ_TIMEOUT_S,
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
        """Store ``body`` under ``key``; the server checks what arrived against its digest.

        A large one goes up in parts. Of an upload that fails no parts are left, unless the store
        has not answered that request either: see `abort_uploads`.
        """
        with _own_errors():
            if len(body) < MULTIPART_FROM_BYTES:
                self._put_whole(key, body, media_type)
            else:
                self._put_parts(key, io.BytesIO(body), len(body), media_type)

    def put_new(self, key: str, body: bytes, media_type: str) -> bool:
        """Store ``body`` under ``key`` unless something is there; whether it was stored."""
        with _own_errors():
            try:
                self._put_whole(key, body, media_type, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) not in (409, 412):  # being written, or there
                    raise
                return False
        return True

    def _put_whole(self, key: str, body: bytes, media_type: str, **conditions: Any) -> None:
        self._client.put_object(
            Bucket=self.bucket,
            Key=key,
            Body=body,
            ContentType=media_type,
            ChecksumAlgorithm="SHA256",
            **conditions,
        )

    def _put_parts(
        self, key: str, file: BinaryIO, size: int, media_type: str = "binary/octet-stream"
    ) -> None:
        self._client.upload_fileobj(
            file,
            self.bucket,
            key,
            ExtraArgs={"ContentType": media_type, "ChecksumAlgorithm": "SHA256"},
            Config=TransferConfig(
                multipart_threshold=MULTIPART_FROM_BYTES,
                multipart_chunksize=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            ),
        )
        # Each part was checked as it arrived. That all are still there when they are put together
        # is for the store to see, and not every store does.
        stored = self._client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]
        if stored != size:
            raise ObjectStoreError(f"{key} has {stored} of {size} bytes: a part was lost")

    def get(self, key: str) -> bytes:
        """The object's bytes; `ObjectMissingError` where there is none."""
        with _own_errors():
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
            except self._client.exceptions.NoSuchKey as error:
                raise ObjectMissingError(key) from error
            body: bytes = answer["Body"].read()
        return body

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with _own_errors():
            try:
                self._client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if _status(error) != 404:  # noqa: PLR2004 (an HTTP status)
                    raise
                return False
        return True

    @contextmanager
    def open(self, key: str) -> Iterator[OpenObject]:
        """The object, read as it is needed; `ObjectMissingError` where there is none."""
        with _own_errors():
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
            except self._client.exceptions.NoSuchKey as error:
                raise ObjectMissingError(key) from error
        body = answer["Body"]
        try:
            yield OpenObject(io.BufferedReader(_Body(body), READ_BYTES), answer["ETag"])
        finally:
            body.close()

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Store an open file under ``key``, as `put` does, without having it in memory."""
        size = os.fstat(file.fileno()).st_size
        with _own_errors():
            if size < MULTIPART_FROM_BYTES:
                self._client.put_object(
                    Bucket=self.bucket, Key=key, Body=file, ChecksumAlgorithm="SHA256"
                )
            else:
                self._put_parts(key, file, size)

    def size(self, key: str) -> int | None:
        """How many bytes the object has; None: there is none."""
        with _own_errors():
            try:
                return self._client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]
            except ClientError as error:
                if _status(error) != 404:  # noqa: PLR2004 (an HTTP status)
                    raise
                return None

    def delete(self, keys: Sequence[str]) -> None:
        """Delete up to 1000 objects; those that do not exist are ignored."""
        if not keys:
            return
        with _own_errors():
            answer = self._client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
            )
        # The answer is 200 also where single objects could not be deleted.
        if failed := answer.get("Errors"):
            first = failed[0]
            raise ObjectStoreError(
                f"{len(failed)} of {len(keys)} objects could not be deleted, the first was "
                f"{first.get('Key')}: {first.get('Message') or first.get('Code')}"
            )

    def abort_uploads(self, prefix: str) -> int:
        """Give up the uploads in parts below ``prefix``, and the space they take; how many."""
        pages = self._client.get_paginator("list_multipart_uploads")
        aborted = 0
        with _own_errors():
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for upload in page.get("Uploads", []):
                    with suppress(self._client.exceptions.NoSuchUpload):  # it has just ended
                        self._client.abort_multipart_upload(
                            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        aborted += 1
        return aborted

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

    def presigned_put(self, key: str, *, expires_s: int) -> str:
        """A link to which one object can be PUT without credentials for ``expires_s`` seconds."""
        link: str = self._client.generate_presigned_url(
            "put_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=expires_s
        )
        return link


def _status(error: ClientError) -> int:
    metadata: dict[str, Any] = dict(error.response.get("ResponseMetadata", {}))
    return int(metadata.get("HTTPStatusCode", 0))
