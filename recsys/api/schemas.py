"""From a query string or a JSON body to a Request, and from a Recommendation to JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from recsys.errors import RequestError
from recsys.requests import Recommendation, Request
from recsys.schemas import check_limits, parse_body
from recsys.settings import ServeSettings

USER, N, RECENT, EXCLUDE, FILTER, EXCLUDE_SEEN = "user", "n", "recent", "exclude", "filter", "exclude_seen"
PARAMETERS = (USER, N, RECENT, EXCLUDE, FILTER, EXCLUDE_SEEN)
"""What `GET /recommend` takes; only `filter` may be repeated."""

Values = Mapping[str, Sequence[str]]
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_SHOWN = 80
"""Characters of a caller's value that an error repeats."""


def request_from_query(query: bytes, request_id: str, limits: ServeSettings) -> Request:
    """The request that a raw, still percent-encoded query string asks for; RequestError names what is malformed."""
    values = _values(query)
    user = _user(values)
    request = Request(
        request_id=request_id,
        user=user,
        history=() if user is None else None,
        recent=_ids(values, RECENT),
        n=_whole_number(values[N][0], N) if N in values else Request.n,
        exclude_seen=_truth(values[EXCLUDE_SEEN][0], EXCLUDE_SEEN) if EXCLUDE_SEEN in values else None,
        exclude=_ids(values, EXCLUDE),
        filters=tuple(_filter(text) for text in values.get(FILTER, ())),
    )
    check_limits(request, limits)
    return request


def request_from_body(body: bytes, request_id: str, limits: ServeSettings) -> Request:
    """The request that a JSON body asks for, an object like a line of a batch file; `request_id` where it has none."""
    return parse_body(body).to_request(limits, request_id=request_id)


def answer_document(recommendation: Recommendation, bundle: str) -> dict[str, Any]:
    """What `/recommend` answers; `degraded` and its reason are there where the event store could not be asked."""
    document = {
        "user": recommendation.user,
        "request_id": recommendation.request_id,
        "bundle": bundle,
        "strategy": recommendation.strategy,
        "reason": recommendation.reason,
        "unknown_history_items": recommendation.unknown_history_items,
        "items": [
            {
                "item_id": item.item_id,
                "rank": item.rank,
                "score": item.score,
                "title": item.title,
                "sources": item.sources,
            }
            for item in recommendation.items
        ],
    }
    if recommendation.degraded:
        document |= {"degraded": True, "degraded_reason": recommendation.degraded}
    return document


def json_bytes(document: Mapping[str, Any]) -> bytes:
    r"""Strict JSON in UTF-8: ValueError for NaN or infinity; a lone surrogate, which UTF-8 lacks, becomes \udXXX."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def _values(query: bytes) -> Values:
    """Each parameter's values, decoded strictly: what can't be read is refused, never replaced by question marks."""
    values: dict[str, list[str]] = {}
    for pair in filter(None, query.split(b"&")):
        raw_name, _, raw_value = pair.partition(b"=")
        name = _decoded(raw_name, raw_name.decode("ascii", "replace"))
        if name not in PARAMETERS:
            raise RequestError(name, f"unknown parameter {name[:_SHOWN]!r}; allowed are {', '.join(PARAMETERS)}")
        values.setdefault(name, []).append(_decoded(raw_value, name))
    for name, given in values.items():
        if len(given) > 1 and name != FILTER:
            raise RequestError(name, f"{name} is given {len(given)} times; give it once")
    return values


def _decoded(raw: bytes, name: str) -> str:
    if _BROKEN_ESCAPE.search(raw):
        raise RequestError(name, f"{name[:_SHOWN]}: % must be followed by two hex digits; write a plain % as %25")
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(name, f"{name[:_SHOWN]} is not percent-encoded UTF-8") from None
    if "\0" in text:
        raise RequestError(name, f"{name[:_SHOWN]} holds a NUL character, which no id or value may")
    return text


def _user(values: Values) -> str | None:
    """The user, or None for a guest: who sends `recent`, if only an empty one, may leave the user out."""
    if USER not in values:
        if RECENT in values:
            return None
        raise RequestError(USER, "user is missing; for a guest send recent= with the items seen so far, if any")
    user = values[USER][0]
    if not user:
        raise RequestError(USER, "user is empty; for a guest leave it out and send recent=")
    return user


def _ids(values: Values, name: str) -> tuple[str, ...]:
    """A comma list of item ids. Ids that hold a comma have to come in a POST."""
    return tuple(part for text in values.get(name, ()) for part in text.split(",") if part)


def _whole_number(text: str, name: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise RequestError(name, f"{name}={text[:_SHOWN]!r}: must be a whole number, for example {name}=10")
    return int(text)


def _truth(text: str, name: str) -> bool:
    if text not in _TRUTH:
        raise RequestError(name, f"{name}={text[:_SHOWN]!r}: must be true or false")
    return _TRUTH[text]


def _filter(text: str) -> tuple[str, str]:
    column, colon, value = text.partition(":")
    if not (column and colon and value):
        raise RequestError(FILTER, f"filter={text[:_SHOWN]!r}: expected column:value, such as filter=category:Books")
    return column, value
