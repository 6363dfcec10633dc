"""Refusals of requests: a status, a message with the cure, and the fields that OpenAI's clients read."""

import logging
import sqlite3
from pathlib import Path
from typing import Any

LOG = logging.getLogger("retentive.serving")

STORAGE_ERRORS = (OSError, sqlite3.Error)
"""The disk is full, or Redis does not answer: what was asked changed nothing, and can be asked again."""


class ApiError(Exception):
    """A request that is refused; it changed nothing."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        """Say why.

        Args:
            status: HTTP status.
            message: The rule, the value and the cure.
            code: A short name of the kind of refusal.
            param: The field of the request that is to blame.
            retry_after_seconds: When the same request may pass; None where waiting does not help.
        """
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> dict[str, Any]:
        """What the client reads, in the shape of OpenAI's API."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """``Retry-After``, where waiting helps, and ``WWW-Authenticate`` where a key is missing."""
        headers = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


def invalid(message: str, param: str | None = None) -> ApiError:
    """A request whose values cannot be."""
    return ApiError(400, message, code="invalid_value", param=param)


def not_found(what: str, identifier: str) -> ApiError:
    """Nothing of this name, or it is another owner's: the answer is the same, so that it tells nothing."""
    return ApiError(404, f"there is no {what} {identifier!r} among yours.", code="not_found")


def too_large(message: str, param: str | None = None) -> ApiError:
    """More than the server takes, however long one waits."""
    return ApiError(413, message, code="too_large", param=param)


def too_many(message: str, retry_after_seconds: int, param: str | None = None) -> ApiError:
    """More at once than the server takes."""
    return ApiError(429, message, code="too_many", param=param, retry_after_seconds=retry_after_seconds)


def for_log(error: Exception) -> str:
    """Why states cannot be stored, without the name of a file: it has a state's id, which stays out of logs."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror} in {Path(str(error.filename)).parent}"
    return str(error)


def no_storage(error: Exception) -> ApiError:
    """Stored states cannot be reached; the log gets why."""
    LOG.error("states cannot be stored: %s", for_log(error))
    return ApiError(
        503, "states cannot be stored now; the server's log says why.", code="no_storage", retry_after_seconds=5
    )
