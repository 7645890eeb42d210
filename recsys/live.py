"""Live counters: what is taken now, and what together with what, over the newest events of the store.

They are a function of the events they hold, however those came in: a worker that has just started and has read the
newest events counts what a worker counts that has followed them for days.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from recsys.event_window import EventWindow
from recsys.stores.base import Event
from recsys.taken import Taken, TakenColumns

HOUR = 3600.0
_SESSION_SECONDS = HOUR
"""Events of one user so near to each other belong together."""
_PARTNERS = 5
"""Events of a user before one that are looked at for what it goes with."""
_UNIT = 1000
"""Weights are counted in thousandths, as integers, whose sums do not depend on their order."""


@dataclass(eq=False, slots=True)
class _Held:
    """One event in the window; `followed_by` are the items that its user took after it, which leave with it."""

    user_id: str
    item_id: str
    time: float
    weight: int
    followed_by: list[str] = field(default_factory=list)
    slot: int = -1

    @property
    def hour(self) -> int:
        return int(self.time // HOUR)


class LiveCounters:
    """Counts over the newest `max_events` events of the last `hours`, and those before that happened after `since`;
    `kind_weight` says what an event of a name weighs (0: it is not counted). Memory is bounded by `max_events`. Threads
    may share it.
    """

    def __init__(self, kind_weight: Callable[[str], float], hours: float = 24.0, max_events: int = 100_000) -> None:
        self.hours = hours
        self.max_events = max_events
        self.since = math.inf
        self._kind_weight = kind_weight
        self._lock = threading.Lock()
        self._window: EventWindow[_Held] = EventWindow(max_events)
        self._by_hour: dict[int, Counter[str]] = {}
        self._together: dict[str, Counter[str]] = {}
        self._by_user: dict[str, deque[_Held]] = {}
        self._columns = TakenColumns(max_events + 1)

    def __len__(self) -> int:
        return len(self._window)

    def start(self, now: float) -> float:
        """The time from which on events are held."""
        return min(now - self.hours * HOUR, self.since)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._window.clear()
            self._columns = TakenColumns(self.max_events + 1)
            for counts in (self._by_hour, self._together, self._by_user):
                counts.clear()

    def add(self, events: Iterable[Event], now: float) -> None:
        """Count events in the order of their numbers; those that happened before the window are left out."""
        with self._lock:
            for event in events:
                weight = round(self._kind_weight(event.event) * _UNIT)
                if weight > 0 and event.time >= self.start(now):
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

    def popularity(self, now: float) -> dict[str, float]:
        """How much each item is taken in the hours up to `now`: event weights, halved every quarter of the window."""
        half_life = self.hours / 4
        this_hour = int(now // HOUR)
        found: dict[str, float] = {}
        with self._lock:
            for hour in sorted(hour for hour in self._by_hour if 0 <= this_hour - hour <= self.hours):
                age = this_hour - hour
                decay = 0.5 ** (age / half_life) / _UNIT
                for item, count in self._by_hour[hour].items():
                    found[item] = found.get(item, 0.0) + count * decay
        return found

    def taken(self) -> Taken:
        """All events that are held."""
        with self._lock:
            return self._columns.taken()

    def together(self, item_id: str) -> Mapping[str, int]:
        """How often other items were taken by the same users within an hour of this one."""
        with self._lock:
            return dict(self._together.get(item_id, ()))

    def _add(self, held: _Held) -> None:
        gone = self._window.add(held)
        if gone is not None:
            self._remove(gone)
        self._keep(held)
        self._by_hour.setdefault(held.hour, Counter())[held.item_id] += held.weight
        recent = self._by_user.setdefault(held.user_id, deque(maxlen=_PARTNERS))
        for before in recent:
            if before.item_id != held.item_id and abs(held.time - before.time) <= _SESSION_SECONDS:
                before.followed_by.append(held.item_id)
                self._count_together(before.item_id, held.item_id, 1)
        recent.append(held)

    def _keep(self, held: _Held) -> None:
        """Among the columns, which are made anew where they have no room left: forgotten users leave gaps."""
        held.slot = self._columns.add(held.user_id, held.item_id, held.time, held.weight / _UNIT)
        if held.slot < 0:
            self._columns = TakenColumns(self.max_events + 1)
            for each in self._window:
                each.slot = self._columns.add(each.user_id, each.item_id, each.time, each.weight / _UNIT)

    def _remove(self, held: _Held) -> None:
        self._columns.remove(held.slot)
        counts = self._by_hour[held.hour]
        _subtract(counts, held.item_id, held.weight)
        if not counts:
            del self._by_hour[held.hour]
        for after in held.followed_by:
            self._count_together(held.item_id, after, -1)
        recent = self._by_user.get(held.user_id)
        if recent is not None:
            if held in recent:
                recent.remove(held)
            if not recent:
                del self._by_user[held.user_id]

    def _count_together(self, one: str, other: str, step: int) -> None:
        for item, partner in ((one, other), (other, one)):
            counts = self._together.setdefault(item, Counter())
            _subtract(counts, partner, -step)
            if not counts:
                del self._together[item]


def _subtract(counts: Counter[str], key: str, amount: int) -> None:
    """Entries that are zero take no room."""
    counts[key] -= amount
    if not counts[key]:
        del counts[key]
