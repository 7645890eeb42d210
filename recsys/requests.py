"""What is asked and what is answered, whoever asks: HTTP, batch or a notebook."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from recsys.filters import Term
from recsys.shapes import Cap, Exploration

BARE_ID = ""
"""The event type of a history entry that is only an id."""


@dataclass(frozen=True)
class HistoryEvent:
    """One event of a request's own history; `timestamp` unix seconds, None where only the order is known."""

    item_id: str
    event: str = BARE_ID
    timestamp: float | None = None


@dataclass(frozen=True)
class Request:
    """One list to make.

    `history` (oldest first) replaces what is stored of the user, `()` is a guest; None takes the stored history.
    `recent` is added after it. `at` is the time the list is for, unix seconds (None: now when serving, the newest
    known event in batch). `filters` must all hold, but (column, value) pairs of one column are alternatives. `n` is
    the length of the list. `among` are the only items that may be listed (None: the whole catalogue). `diversity` (0
    to 1), `caps` and `exploration` shape the list as `recsys.shaping` says; None: as the settings say.
    """

    request_id: str = ""
    user: str | None = None
    history: tuple[HistoryEvent, ...] | None = None
    recent: tuple[str, ...] = ()
    at: float | None = None
    n: int = 10
    exclude_seen: bool | None = None
    exclude: tuple[str, ...] = ()
    filters: tuple[Term, ...] = ()
    among: tuple[str, ...] | None = None
    diversity: float | None = None
    caps: tuple[Cap, ...] | None = None
    exploration: Exploration | None = None

    def but(self, **changes: Any) -> Request:
        """The same request with other values."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class RecommendedItem:
    """One item of a list: `rank` 1 is the best, `sources` the candidate sources that offered it, the first one
    first. `propensity`, where the list explores: the probability that the item stands here, given those above it.
    """

    item_id: str
    rank: int
    score: float
    title: str
    sources: tuple[str, ...]
    propensity: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request. `strategy` says which path answered, `reason` why where it is a fallback;
    `unknown_history_items` counts history items that are not in the catalogue (they are ignored). `degraded` says why
    the event store was not asked, where there is one: the list then knows what the bundle knows."""

    request_id: str
    user: str | None
    strategy: str
    reason: str
    items: tuple[RecommendedItem, ...]
    unknown_history_items: int = 0
    degraded: str = ""
