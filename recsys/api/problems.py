"""Errors as RFC 9457 problem documents: the one place where an error gets its HTTP status."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from recsys.errors import BundleError, RequestError, StoreError

CONTENT_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Problem:
    """What went wrong, for the caller: `parameter` names what to mend where the request was malformed."""

    status: int
    detail: str
    parameter: str | None = None

    def document(self, request_id: str) -> dict[str, Any]:
        """The members of RFC 9457 plus `request_id`, which the log line carries too, and `parameter`."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        return document if self.parameter is None else document | {"parameter": self.parameter}


def problem_of(error: Exception) -> Problem:
    """400 for a request that can't be answered as it stands, 503 without bundle or store, else a bare 500."""
    if isinstance(error, RequestError):
        return Problem(HTTPStatus.BAD_REQUEST, str(error), error.parameter)
    if isinstance(error, (BundleError, StoreError)):
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an unexpected error; the log has it under this request_id")
