"""From a query string or a JSON body to a Request, and from a Recommendation to JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recsys.api.queries import RecommendQuery
from recsys.requests import Recommendation, RecommendedItem, Request
from recsys.schemas import parse_body
from recsys.settings import ServeSettings

PARAMETERS = tuple(RecommendQuery.model_fields)
"""What `GET /recommend` takes; only `filter` and `cap` may be repeated."""


def request_from_query(query: bytes, request_id: str, limits: ServeSettings) -> Request:
    """The request that a raw, still percent-encoded query string asks for; RequestError names what is malformed."""
    return RecommendQuery.read(query).to_request(request_id, limits)


def request_from_body(body: bytes, request_id: str, limits: ServeSettings) -> Request:
    """The request that a JSON body asks for, an object like a line of a batch file; `request_id` where it has none."""
    return parse_body(body).to_request(limits, request_id=request_id)


def answer_document(recommendation: Recommendation, bundle: str, variant: str | None = None) -> dict[str, Any]:
    """What the calls that list items answer; `recsys.api.answers` describes it. `variant` is named where there are
    several; `degraded` and its reason are there where the event store could not be asked.
    """
    named = {} if variant is None else {"variant": variant}
    document = {
        "user": recommendation.user,
        "request_id": recommendation.request_id,
        "bundle": bundle,
        **named,
        "strategy": recommendation.strategy,
        "reason": recommendation.reason,
        "unknown_history_items": recommendation.unknown_history_items,
        "items": [_item_document(item) for item in recommendation.items],
    }
    if recommendation.degraded:
        document |= {"degraded": True, "degraded_reason": recommendation.degraded}
    return document


def _item_document(item: RecommendedItem) -> dict[str, Any]:
    document: dict[str, Any] = {
        "item_id": item.item_id,
        "rank": item.rank,
        "score": item.score,
        "title": item.title,
        "sources": item.sources,
    }
    return document if item.propensity is None else document | {"propensity": item.propensity}


def json_bytes(document: Mapping[str, Any]) -> bytes:
    r"""Strict JSON in UTF-8: ValueError for NaN or infinity; a lone surrogate, which UTF-8 lacks, becomes \udXXX."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
