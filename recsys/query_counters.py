"""What users took after which search, over the newest events of the store that carry a query.

Like the live counters, they are a function of the events they hold, however those came in.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.event_window import EventWindow
from recsys.stores.base import Event
from recsys.words import words

DAY = 86_400.0
_MAX_WORDS = 8
"""Words of a query that others can share with it: a longer one says what it is about at its beginning."""
_WORD_SHARE = 0.25
"""What a user counts for who took the item after another query that has all the words."""

_RARE = 10
"""Users who took something after a word's queries, up to about which words are equally rare."""

_COMMON = 2000
"""Users beyond which a word leads anywhere: as it weighs next to nothing, its items are not even looked through."""
_CHUNK = 500
"""Events that are counted before a search may look."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """One event in the window; `keys` are the query as a whole, which begins with a space, and its words."""

    user_id: str
    item_id: str
    time: float
    keys: tuple[str, ...]


class QueryCounters:
    """Who took what after a query, over the newest `max_events` events with one of the last `days`; `kind_weight` says
    what an event of a name weighs (0: it is not counted). Users are counted, not events, so that nobody takes a query
    over by clicking again and again. Memory is bounded by `max_events`, about a kilobyte each. Threads may share it.
    """

    def __init__(self, kind_weight: Callable[[str], float], days: float = 30.0, max_events: int = 30_000) -> None:
        self.days = days
        self.max_events = max_events
        self._kind_weight = kind_weight
        self._lock = threading.Lock()
        self._window: EventWindow[_Held] = EventWindow(max_events)
        self._num_events: Counter[tuple[str, str, str]] = Counter()
        self._num_users: dict[str, Counter[str]] = {}
        self._totals: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._window)

    def add(self, events: Iterable[Event], now: float) -> None:
        """Count events in the order of their numbers; those without a query or before the window are left out."""
        oldest = now - self.days * DAY
        searched = [
            event for event in events if event.query and event.time >= oldest and self._kind_weight(event.event) > 0
        ]
        for start in range(0, len(searched), _CHUNK):
            with self._lock:
                for event in searched[start : start + _CHUNK]:
                    keys = _keys(event.query or "")
                    if keys:
                        self._add(_Held(event.user_id, event.item_id, event.time, keys))

    def expire(self, now: float) -> None:
        """Let go of the events that have left the window."""
        with self._lock:
            self._remove(self._window.expire(now - self.days * DAY))

    def forget(self, user_id: str) -> None:
        """Let go of what the user did."""
        with self._lock:
            self._remove(self._window.forget(user_id))

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._window.clear()
            self._num_events.clear()
            self._num_users.clear()
            self._totals.clear()

    def taken(self, query: str) -> dict[str, float]:
        """How many users took each item after the query, whatever the order and the case of its words. One who took it
        after other queries that share words with it counts up to a quarter: the more of the words, and the rarer they
        are in queries, the more.
        """
        whole, *own = _keys(query) or ("",)
        with self._lock:
            exact: Mapping[str, int] = self._num_users.get(whole, {})
            found = {item: float(count) for item, count in exact.items()}
            for item, count in self._shared(own).items():
                others = max(count - exact.get(item, 0), 0.0)
                found[item] = found.get(item, 0.0) + _WORD_SHARE * others
        return found

    def _shared(self, own: Sequence[str]) -> dict[str, float]:
        """The users who took each item after queries with a word, as the mean over the words: the rarer, the more one
        weighs, and one that nobody has searched for weighs most.
        """
        weights = {word: 1 / (self._totals[word] + _RARE) for word in own}
        total = sum(weights.values())
        found: dict[str, float] = {}
        for word in own:
            taken: Mapping[str, int] = self._num_users.get(word, {}) if self._totals[word] <= _COMMON else {}
            for item, count in taken.items():
                found[item] = found.get(item, 0.0) + count * weights[word] / total
        return found

    def _add(self, held: _Held) -> None:
        for key in held.keys:
            event = (key, held.item_id, held.user_id)
            self._num_events[event] += 1
            if self._num_events[event] == 1:
                if key not in self._num_users:
                    self._num_users[key] = Counter()
                self._num_users[key][held.item_id] += 1
                self._totals[key] += 1
        gone = self._window.add(held)
        if gone is not None:
            self._remove([gone])

    def _remove(self, gone: Iterable[_Held]) -> None:
        for held in gone:
            for key in held.keys:
                event = (key, held.item_id, held.user_id)
                _subtract(self._num_events, event)
                if event not in self._num_events:
                    _subtract(self._num_users[key], held.item_id)
                    _subtract(self._totals, key)
                    if not self._num_users[key]:
                        del self._num_users[key]


def _keys(query: str) -> tuple[str, ...]:
    """The query as a whole and its first words; () where it has none."""
    distinct = list(dict.fromkeys(words(query)))
    return (" " + " ".join(sorted(distinct)), *distinct[:_MAX_WORDS]) if distinct else ()


def _subtract(counts: Counter[Any], key: Any) -> None:
    """Entries that are zero take no room."""
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
