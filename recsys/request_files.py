"""Files of requests: JSON Lines, or one user id a line. All of a file is checked before anything is answered."""

from __future__ import annotations

import codecs
import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from recsys.errors import RequestError
from recsys.requests import Request
from recsys.schemas import check_limits, parse_body
from recsys.settings import ServeSettings

Line = tuple[int, bytes]
"""A line's number, 1 = first, and its bytes without the line end."""


class Lines(Protocol):
    """Numbered lines that can be read more than once; `origin` names them in errors."""

    @property
    def origin(self) -> str:
        """A file's name, or what stands for it."""
        ...

    def __iter__(self) -> Iterator[Line]: ...


@dataclass(frozen=True)
class FileLines:
    """The lines of a file that are not blank."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_file():
            what = (
                "is not a plain file (a pipe can't be read twice); save it first"
                if self.path.exists()
                else "does not exist"
            )
            raise RequestError("requests", f"{self.path} {what}")

    @property
    def origin(self) -> str:
        """The path as given."""
        return str(self.path)

    def __iter__(self) -> Iterator[Line]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
                if text.strip():
                    yield number, text


@dataclass(frozen=True)
class UserLines:
    """Every user of a model as a line."""

    users: Iterable[str]
    origin: str = "--users all"

    def __iter__(self) -> Iterator[Line]:
        for number, user in enumerate(self.users, start=1):
            yield number, user.encode("utf-8")


@dataclass(frozen=True)
class RequestReader:
    """Turns lines into requests: JSON objects, or bare user ids where `of_users`. `n` is for those that name none."""

    origin: str
    of_users: bool
    n: int
    limits: ServeSettings

    def read(self, line: Line) -> Request:
        """The request of one line; RequestError names the file, the line, the key and the value."""
        number, text = line
        try:
            return self._user(text) if self.of_users else self._body(text)
        except RequestError as error:
            raise self.at_line(number, error) from None

    def at_line(self, number: int, error: RequestError) -> RequestError:
        """The same error with where it was found."""
        return RequestError(error.parameter, f"{self.origin}, line {number}: {error}")

    def _user(self, text: bytes) -> Request:
        try:
            user = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError("user", f"user {text[:80]!r} is not UTF-8: {error.reason}") from None
        request = Request(request_id=user, user=user, n=self.n)
        check_limits(request, self.limits)
        return request

    def _body(self, text: bytes) -> Request:
        body = parse_body(text)
        if body.request_id is None:
            raise RequestError("request_id", "request_id is missing; every request of a file needs its own")
        return body.to_request(self.limits, n=self.n)


@dataclass(frozen=True)
class CheckedRequests:
    """A file that was read to its end without an error: how many requests, and a digest of its lines."""

    count: int
    fingerprint: str


def check_requests(lines: Lines, reader: RequestReader, probe: Callable[[Request], object]) -> CheckedRequests:
    """Read everything once and answer nothing; RequestError for the first line that can't be used.

    `probe` gets a request for every distinct filter and set of caps, and raises RequestError where one can't be used.
    """
    digest, hashes = hashlib.sha256(), array("q")
    probed: set[Request] = set()
    for number, text in lines:
        request = reader.read((number, text))
        digest.update(b"%d:" % len(text) + text)
        hashes.append(hash(request.request_id))
        for probing in _probes(request):
            if probing not in probed:
                _probe(probe, probing, reader, number)
                probed.add(probing)
    _refuse_repeats(lines, reader, np.frombuffer(hashes, np.int64))
    return CheckedRequests(len(hashes), digest.hexdigest())


def _probes(request: Request) -> Iterator[Request]:
    for term in request.filters:
        yield Request(history=(), n=1, filters=(term,))
    if request.caps:
        yield Request(history=(), n=1, caps=request.caps)


def _probe(probe: Callable[[Request], object], probing: Request, reader: RequestReader, number: int) -> None:
    try:
        probe(probing)
    except RequestError as error:
        raise reader.at_line(number, error) from None


def _refuse_repeats(lines: Lines, reader: RequestReader, hashes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Rows of two lists under one request_id could not be told apart. Eight bytes an id keep the memory small; only
    where hashes agree are the ids themselves compared."""
    values, counts = np.unique(hashes, return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    first: dict[str, int] = {}
    for line in lines:
        request_id = reader.read(line).request_id
        if hash(request_id) in suspects and first.setdefault(request_id, line[0]) != line[0]:
            raise reader.at_line(
                line[0],
                RequestError("request_id", f"request_id {request_id!r} was used on line {first[request_id]} already"),
            )
