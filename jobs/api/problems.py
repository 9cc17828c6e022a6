"""Every error as an RFC 9457 problem (``application/problem+json``)."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.exceptions import HTTPException

from jobs.pictures.errors import PictureFormatError, PicturesBusyError, PictureTooLargeError
from jobs.problems import BadInputError, ConflictError, NotFoundError, Problem, from_errors
from storage.ledger.cancel import WrongStateError
from storage.objects import ObjectStoreError

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_BAD_INPUT: Mapping[type[BadInputError], HTTPStatus] = MappingProxyType(
    {
        PictureTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        PictureFormatError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    }
)
"""What is not 422."""


class ProblemResponse(JSONResponse):
    """In ASCII: a message may quote half of a surrogate pair, which UTF-8 cannot hold."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """The document, other characters as escapes."""
        return json.dumps(content).encode("ascii")


def problem(
    status: HTTPStatus,
    detail: str,
    errors: Sequence[Problem] = (),
    headers: dict[str, str] | None = None,
) -> ProblemResponse:
    """The response for one problem; ``errors`` has an entry per field that is wrong."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
    }
    if errors:
        body["errors"] = [error.as_dict() for error in errors]
    return ProblemResponse(body, status, headers=headers)


def add_handlers(app: FastAPI) -> None:
    """Have ``app`` answer every error as a problem."""

    @app.exception_handler(BadInputError)
    def bad_input(_: Request, error: BadInputError) -> JSONResponse:
        status = _BAD_INPUT.get(type(error), HTTPStatus.UNPROCESSABLE_ENTITY)
        return problem(status, str(error), error.problems)

    @app.exception_handler(RequestValidationError)
    def not_valid(_: Request, error: RequestValidationError) -> JSONResponse:
        # The first part of a location is path, query or header: bodies are read by ourselves.
        errors = [{**item, "loc": item["loc"][1:]} for item in error.errors()]
        problems = from_errors(errors, None)
        detail = "\n".join(str(item) for item in problems)
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, problems)

    @app.exception_handler(NotFoundError)
    def not_found(_: Request, error: NotFoundError) -> JSONResponse:
        return problem(HTTPStatus.NOT_FOUND, str(error))

    @app.exception_handler(ConflictError)
    def conflict(_: Request, error: ConflictError) -> JSONResponse:
        return problem(HTTPStatus.CONFLICT, str(error))

    @app.exception_handler(WrongStateError)
    def wrong_state(_: Request, error: WrongStateError) -> JSONResponse:
        return problem(HTTPStatus.CONFLICT, f"not possible: it is {error.status}")

    @app.exception_handler(HTTPException)
    def http(_: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers) if error.headers else None
        return problem(HTTPStatus(error.status_code), str(error.detail), headers=headers)

    _add_outages(app)


def _add_outages(app: FastAPI) -> None:
    """What is no fault of the request."""

    @app.exception_handler(ObjectStoreError)
    def bucket(_: Request, error: ObjectStoreError) -> JSONResponse:
        _log.error("the bucket does not answer: %s", error)
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the bucket does not answer; try again",
            headers={"Retry-After": "5"},
        )

    @app.exception_handler(PicturesBusyError)
    def busy(_: Request, __: PicturesBusyError) -> JSONResponse:
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too many pictures are being looked at just now; try again",
            headers={"Retry-After": "5"},
        )

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(NoConnectionError)
    def database(_: Request, error: SQLAlchemyError) -> JSONResponse:
        # Not the whole error: it quotes the statement's values, which may be personal data.
        _log.error("the database does not answer: %s", getattr(error, "orig", error))
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the database does not answer; try again",
            headers={"Retry-After": "5"},
        )

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> JSONResponse:
        _log.error("unexpected error", exc_info=error)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an unexpected error; it was logged")
