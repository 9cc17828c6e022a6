"""Why a picture is refused."""

from jobs.problems import BadInputError, Problem


class PictureError(BadInputError):
    """The picture is refused; the text says why and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(Problem(reason))
        self.reason = reason


class PictureTooLargeError(PictureError):
    """It has too many bytes."""


class PictureFormatError(PictureError):
    """It is something else than PNG, JPEG or WebP."""


class PicturesBusyError(Exception):
    """Too many pictures are being looked at just now; try again."""
