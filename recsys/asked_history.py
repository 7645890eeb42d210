"""A request's history in rows: its own or the stored one, what its user looks at just now, and the moment that the list
is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from recsys.model import FittedModel
from recsys.request_history import HistoryReader, KnownHistory, Triple
from recsys.requests import HistoryEvent, Request


@dataclass(frozen=True)
class AskedHistory:
    """One request's history in rows: its newest events, all items seen, those of them that the user does not want, and
    the time the list is for.
    """

    events: Triple
    seen: npt.NDArray[np.int64]
    dismissed: npt.NDArray[np.int64]
    as_of: float
    unknown: int
    known_user: bool
    degraded: str = ""


class AskedHistories:
    """What there is of each request's user: of those who bring no history, by the `reader`."""

    def __init__(self, model: FittedModel, reader: HistoryReader) -> None:
        self._model, self._reader = model, reader

    def of(self, request: Request, as_of: float) -> AskedHistory:
        """The request's own history or the stored one, then `recent`. What is not before the time of the list, `as_of`,
        is not known; a request without a time is for the moment after its newest event, if that is later than the
        clock.
        """
        if request.history is None:
            known = self._reader.read(request.user, as_of, strict=request.at is not None)
        else:
            events, unknown = self._own_history(request.history, as_of, strict=request.at is not None)
            known = KnownHistory(events, request.user is not None and request.user in self._model.users, unknown)
        events, unknown = known.events, known.unknown
        if request.recent:
            events, missing = self._with_recent(events, request.recent, as_of)
            unknown += missing
        if self._has_clock and len(events[1]) and events[1][-1] >= as_of:
            as_of = float(events[1][-1]) + 1.0
        limit = self._model.settings.events.history_limit
        newest = (events[0][-limit:], events[1][-limit:], events[2][-limit:])
        moment = as_of if self._has_clock else np.nan
        return AskedHistory(newest, events[0], _dismissed(events), moment, unknown, known.known_user, known.degraded)

    def built(self, histories: Sequence[AskedHistory]) -> Histories:
        """What the model gets to see of them."""
        rows, orders, weights = zip(*(h.events for h in histories), strict=True) if histories else ((), (), ())
        as_of = np.array([h.as_of for h in histories])
        clocked = np.full(len(histories), self._has_clock)
        return Histories.build(rows, orders, weights, as_of, len(self._model.catalogue), clocked)

    @property
    def _has_clock(self) -> bool:
        return self._model.histories.has_clock

    def _own_history(self, history: tuple[HistoryEvent, ...], as_of: float, *, strict: bool) -> tuple[Triple, int]:
        """Rows, orders and weights, oldest first, and how many items are unknown. Where the times are missing, the
        events are taken to have come a second apart up to the time of the list.
        """
        history = tuple(event for event in history if event.event not in self._model.settings.events.ignored)
        rows = self._model.catalogue.items.rows([event.item_id for event in history])
        stamps = [event.timestamp for event in history if event.timestamp is not None]
        if len(stamps) == len(history):
            orders = np.array(stamps, np.float64)
        else:
            orders = np.arange(len(history), dtype=np.float64) - len(history) + (as_of if self._has_clock else 0.0)
        weights = np.array([self._reader.kind_weight(event.event) for event in history], np.float32)
        known = rows >= 0
        usable = known & (orders < as_of) if strict and self._has_clock else known
        order = np.lexsort((rows[usable], orders[usable]))
        return (rows[usable][order], orders[usable][order], weights[usable][order]), int((~known).sum())

    def _with_recent(self, events: Triple, recent: tuple[str, ...], as_of: float) -> tuple[Triple, int]:
        """`recent` as moments of their own behind the newest event, a second apart, up to the time of the list if that
        leaves room for them.
        """
        rows = self._model.catalogue.items.rows(list(recent))
        known = rows[rows >= 0]
        newest = float(events[1][-1]) if len(events[1]) else -np.inf
        first = max(newest, as_of - len(known) - 1) if self._has_clock or not len(events[1]) else newest
        orders = first + 1.0 + np.arange(len(known))
        added = (known, orders, np.ones(len(known), np.float32))
        joined = tuple(np.concatenate([old, new]) for old, new in zip(events, added, strict=True))
        return (joined[0], joined[1], joined[2]), int(len(recent) - len(known))


def _dismissed(events: Triple) -> npt.NDArray[np.int64]:
    """The items that the user does not want, ascending: see `Histories.dismissed`."""
    if not (events[2] < 0).any():
        return events[0][:0]
    told = events[2] != 0
    rows, orders, weights = (part[told] for part in events)
    newest_first = np.lexsort((weights, orders, rows))[::-1]
    items, place = np.unique(rows[newest_first], return_index=True)
    return np.asarray(items[weights[newest_first][place] < 0], np.int64)
