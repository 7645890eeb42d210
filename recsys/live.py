"""Live counters: what is taken now, over the newest events of the store.

They are a function of the events they hold, however those came in: a worker that has just started and has read the
newest events counts what a worker counts that has followed them for days.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Self

from recsys.event_window import EventWindow
from recsys.stores.base import Event
from recsys.stores.settings import StoreSettings
from recsys.taken import HOUR, WEIGHT_DIGITS, Happened, Taken, TakenColumns


@dataclass(eq=False, slots=True)
class _Held:
    """One event in the window, kept in a `slot` of the columns."""

    user_id: str
    item_id: str
    time: float
    weight: float
    slot: int = -1


class LiveCounters:
    """Counts over the newest `max_events` events of the last `hours`, and of those before back to as many hours before
    `since`, but not before the last `days`; `kind_weight` says what an event of a name weighs (0: it is not counted).
    Memory is bounded by `max_events`. Threads may share it.
    """

    def __init__(
        self,
        kind_weight: Callable[[str], float],
        hours: float = 24.0,
        max_events: int = 100_000,
        days: float = math.inf,
    ) -> None:
        self.hours = hours
        self.max_events = max_events
        self.days = days
        self.since = math.inf
        self._kind_weight = kind_weight
        self._lock = threading.Lock()
        self._window: EventWindow[_Held] = EventWindow(max_events)
        self._columns = TakenColumns(max_events + 1)

    @classmethod
    def of(cls, kind_weight: Callable[[str], float], settings: StoreSettings) -> Self:
        """As the settings say."""
        return cls(kind_weight, settings.live_hours, settings.live_events, settings.kept_days)

    def __len__(self) -> int:
        return len(self._window)

    def start(self, now: float) -> float:
        """The time from which on events are held."""
        return max(min(now, self.since) - self.hours * HOUR, now - self.days * 24 * HOUR)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._window.clear()
            self._columns = TakenColumns(self.max_events + 1)

    def add(self, events: Iterable[Event], now: float) -> None:
        """Count events in the order of their numbers; those that happened before the window are left out."""
        start = self.start(now)
        with self._lock:
            for event in events:
                weight = round(self._kind_weight(event.event), WEIGHT_DIGITS)
                if weight > 0 and event.time >= start:
                    self._add(_Held(event.user_id, event.item_id, event.time, weight))

    def expire(self, now: float) -> None:
        """Let go of the events that have left the window."""
        with self._lock:
            for held in self._window.expire(self.start(now)):
                self._remove(held)

    def forget(self, user_id: str) -> None:
        """Let go of what the user did."""
        with self._lock:
            for held in self._window.forget(user_id):
                self._remove(held)

    def happened(self, now: float, forgotten: Collection[str] = ()) -> Happened:
        """All that is known at the time `now`."""
        return Happened(self.taken(), now, self.hours, forgotten)

    def know(self, item_id: str) -> bool:
        """Whether the item was taken; it may have been too long ago by now."""
        return self._columns.know(item_id)

    def taken(self) -> Taken:
        """All events that are held."""
        with self._lock:
            return self._columns.taken()

    def _add(self, held: _Held) -> None:
        gone = self._window.add(held)
        if gone is not None:
            self._remove(gone)
        self._keep(held)

    def _keep(self, held: _Held) -> None:
        """Among the columns, which are made anew where they have no room left: forgotten users leave gaps."""
        held.slot = self._columns.add(held.user_id, held.item_id, held.time, held.weight)
        if held.slot < 0:
            self._columns = TakenColumns(self.max_events + 1)
            for each in self._window:
                each.slot = self._columns.add(each.user_id, each.item_id, each.time, each.weight)

    def _remove(self, held: _Held) -> None:
        self._columns.remove(held.slot)
