"""What is known of a request's user: the bundle's history, and what the event store adds to it."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from recsys.errors import StoreError
from recsys.model import OTHER_KINDS, FittedModel
from recsys.requests import BARE_ID
from recsys.stores.base import EventStore, StoredEvents
from recsys.stores.settings import StoreSettings

Triple = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float32]]
"""Item rows, orders (unix seconds, or positions without a clock) and weights, oldest first."""
NOTHING: Triple = (np.empty(0, np.int64), np.empty(0), np.empty(0, np.float32))
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownHistory:
    """A user's `events`, whether there is such a user, and how many of the events are of items not in the catalogue.
    `degraded` says why the store was not asked, where there is one.
    """

    events: Triple
    known_user: bool
    unknown: int = 0
    degraded: str = ""


@dataclass
class StoreReader:
    """Asks the store for histories, but not while it is known to be away: a failure costs one request its time-out,
    and after that one request in `retry_after` seconds, or none where it is `followed`: who follows the store then says
    when it is `back`. `up_to` (None: now) reads the store as it was at that number.
    Where the store is `required`, a failure is the caller's StoreError.

    `forgotten` are the users that others have told it of, with the times before which nothing may be known: they stay
    forgotten while the store is away.
    """

    store: EventStore
    settings: StoreSettings = field(default_factory=StoreSettings)
    up_to: int | None = None
    required: bool = False
    followed: bool = False
    forgotten: dict[str, float] = field(default_factory=dict)
    _why_away: str = ""
    _asked_again_at: float = 0.0
    _probing: threading.Lock = field(default_factory=threading.Lock)

    def read(self, user: str, before: float | None) -> tuple[StoredEvents, str]:
        """(what the store holds of the user, "") or (what is left without it, why it can't be asked)"""
        if not self._why_away:
            return self._ask(user, before)
        if not self.followed and time.monotonic() >= self._asked_again_at and self._probing.acquire(blocking=False):
            try:
                return self._ask(user, before)
            finally:
                self._probing.release()
        return self._without(user)

    def _ask(self, user: str, before: float | None) -> tuple[StoredEvents, str]:
        try:
            found = self.store.history(user, before, self.up_to)
        except StoreError as error:
            if self.required:
                raise
            if not self._why_away:
                _logger.warning("lists are made without the event store: %s", error)
            self._asked_again_at = time.monotonic() + self.settings.retry_after
            self._why_away = str(error)
            return self._without(user)
        self.back()
        return found, ""

    def back(self) -> None:
        """The store has answered: ask it from now on."""
        if self._why_away:
            _logger.warning("the event store answers again")
            self._why_away = ""

    def _without(self, user: str) -> tuple[StoredEvents, str]:
        return StoredEvents((), (), (), self.forgotten.get(user)), self._why_away or "the event store was away just now"


class HistoryReader:
    """Joins both sources of history. An event that is in both counts once: the bundle knows it by item, time and the
    weight of its kind, having no event ids.
    """

    def __init__(self, model: FittedModel, store: StoreReader | None = None) -> None:
        self._model = model
        self._store = store

    def read(self, user: str | None, as_of: float, *, strict: bool) -> KnownHistory:
        """What is known of the user before `as_of`. Where that is only the present moment (not `strict`), all events
        count, even if the clock of who sent them is ahead of ours, or ours has jumped back.
        """
        if user is None:
            return KnownHistory(NOTHING, known_user=False)
        known = user in self._model.users
        events = self._in_bundle(user, as_of if strict else np.inf) if known else NOTHING
        if self._store is None:
            return KnownHistory(events, known)
        before = as_of if strict and self._has_clock else None
        stored, degraded = self._store.read(user, before)
        if stored.forgotten_at is not None:
            events = self._since(events, stored.forgotten_at)
            known = bool(len(events[0]))
        added, unknown = self._added(stored, events)
        joined = _joined(events, added) if len(added[0]) else events
        return KnownHistory(joined, known or len(stored) > 0, unknown, degraded)

    def close(self) -> None:
        """Give the store's connections back."""
        if self._store is not None:
            self._store.store.close()

    @property
    def _has_clock(self) -> bool:
        return self._model.histories.has_clock

    def kind_weight(self, kind: str) -> float:
        """The weight that training gave the event type; a bare id counts as the strongest."""
        weights = self._model.kind_weights
        return 1.0 if kind == BARE_ID else float(weights.get(kind, weights.get(OTHER_KINDS, 1.0)))

    def _in_bundle(self, user: str, as_of: float) -> Triple:
        stored = self._model.histories
        row = self._model.users.row(user)
        span = slice(int(stored.indptr[row]), int(stored.indptr[row + 1]))
        rows, times, weights = stored.item_rows[span].astype(np.int64), stored.times[span], stored.weights[span]
        stop = int(np.searchsorted(times, as_of, side="left")) if stored.has_clock else len(times)
        return rows[:stop], times[:stop], weights[:stop]

    def _since(self, events: Triple, forgotten_at: float) -> Triple:
        """What the bundle has learned after the user was forgotten; nothing where it can't tell."""
        if not self._has_clock:
            return NOTHING
        first = int(np.searchsorted(events[1], forgotten_at, side="left"))
        return events[0][first:], events[1][first:], events[2][first:]

    def _added(self, stored: StoredEvents, events: Triple) -> tuple[Triple, int]:
        """The stored events that `events` lack, by time, and how many are of unknown items."""
        ignored = self._model.settings.events.ignored
        kept = [k for k, kind in enumerate(stored.kinds) if kind not in ignored]
        if not kept:
            return NOTHING, 0
        rows = self._model.catalogue.items.rows([stored.item_ids[k] for k in kept])
        times = np.array([stored.times[k] for k in kept])
        weights = np.array([self.kind_weight(stored.kinds[k]) for k in kept], np.float32)
        new = rows >= 0
        unknown = int((~new).sum())
        if self._has_clock and len(events[0]) and times[0] <= events[1][-1]:
            there = set(zip(*(column.tolist() for column in events), strict=True))
            triples = zip(rows.tolist(), times.tolist(), weights.tolist(), strict=True)
            new &= np.array([triple not in there for triple in triples], bool)
        if not self._has_clock:  # positions, behind those of the bundle; what happened at one time is one moment
            first = events[1][-1] + 1.0 if len(events[0]) else 0.0
            times = first + np.unique(times, return_inverse=True)[1].astype(np.float64)
        return (rows[new], times[new], weights[new]), unknown


def _joined(one: Triple, other: Triple) -> Triple:
    """Both, by time; events of one time by item, so that it does not matter where they were kept."""
    rows, times, weights = (np.concatenate([one[k], other[k]]) for k in range(3))
    order = np.lexsort((rows, times))
    return rows[order].astype(np.int64), times[order], weights[order].astype(np.float32)
