"""From bytes that anybody may have sent to a picture that is safe to open."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from jobs.pictures import formats
from jobs.pictures.errors import PictureError, PicturesBusyError
from jobs.pictures.formats import MAX_PIXELS, MIB
from storage.objects import sha256_hex

MAX_PNG_BYTES = 64 * MIB
WALL_S = 30
END_S = 5
"""How long the decoder may take to end once it has said all."""

_DECODER = Path(__file__).with_name("decoder.py")
_REFUSED = 1
"""The decoder's exit code where it says why."""

# Each may take the memory that the decoder's own limit allows, whatever number of threads asks.
_at_once = threading.BoundedSemaphore(2)

# A small file can take half a minute. Those who wait for their turn must not take all the threads
# of a server, or nobody could ask it for anything.
_places = threading.BoundedSemaphore(8)


@dataclass(frozen=True)
class Picture:
    """A PNG that we have written ourselves: RGB or RGBA in sRGB, without metadata."""

    png: bytes
    width: int
    height: int

    @property
    def sha256(self) -> str:
        """Of the PNG's bytes, by which it is named."""
        return sha256_hex(self.png)


def clean(data: bytes) -> Picture:
    """The picture in ``data`` (PNG, JPEG or WebP), decoded in a process of its own.

    What that process answers is looked at as if it were an upload itself.

    Raises:
        PictureError: why it is refused; nothing was decoded in this process.
        PicturesBusyError: too many others wait for their turn.
    """
    header = formats.inspect(data)
    if not _places.acquire(blocking=False):
        raise PicturesBusyError
    try:
        with _at_once:
            png = _decoded(data, header.format)
    finally:
        _places.release()
    try:
        written = formats.inspect(png, max_bytes=MAX_PNG_BYTES)
    except PictureError as error:
        raise PictureError("cannot be decoded") from error
    return Picture(png, written.width, written.height)


def _decoded(data: bytes, format_: formats.Format) -> bytes:
    with subprocess.Popen(
        [sys.executable, "-I", str(_DECODER), format_, str(MAX_PIXELS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        clock = threading.Timer(WALL_S, _kill, [process])
        feeder = threading.Thread(target=partial(_feed, process.stdin, data))
        clock.start()
        feeder.start()
        answer = b""
        try:
            answer = process.stdout.read(MAX_PNG_BYTES + 1)
        finally:
            # First: a number whose process has been waited for may be another one's.
            clock.cancel()
            clock.join()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0 if len(answer) > MAX_PNG_BYTES else END_S)
            _kill(process)
            feeder.join()
    if len(answer) > MAX_PNG_BYTES:
        raise PictureError(
            f"would have more than {MAX_PNG_BYTES // MIB} MiB as PNG; make it smaller"
        )
    if process.returncode == _REFUSED:
        reason = answer[:200].decode(errors="replace")
        raise PictureError("".join(filter(str.isprintable, reason)) or "cannot be decoded")
    if process.returncode != 0:
        raise PictureError("takes more time or memory to decode than a picture may")
    return answer


def _feed(stdin: IO[bytes], data: bytes) -> None:
    with suppress(OSError), stdin:  # it may end without having read all
        stdin.write(data)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
