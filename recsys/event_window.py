"""The newest events that a worker holds in memory, in the order in which they were stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

_LATE = 60.0
"""Seconds that an event may stay too long behind one that was stored before it and happened after it."""


class Held(Protocol):
    """What a window holds of an event."""

    @property
    def user_id(self) -> str:
        """Who did it."""

    @property
    def time(self) -> float:
        """When, unix seconds."""


H = TypeVar("H", bound=Held)


class EventWindow(Generic[H]):
    """At most `max_events`; what has left is returned, so that its counts can be taken back. Not for threads."""

    def __init__(self, max_events: int) -> None:
        self._max_events = max_events
        self._held: deque[H] = deque()
        self._oldest = float("inf")
        """No event that is held happened before."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[H]:
        return iter(self._held)

    def add(self, held: H) -> H | None:
        """Take an event in; returns the one that has to go for it, if any."""
        self._held.append(held)
        self._oldest = min(self._oldest, held.time)
        return self._held.popleft() if len(self._held) > self._max_events else None

    def expire(self, oldest: float) -> list[H]:
        """Remove what happened before `oldest`. Events hardly ever come out of order, so that it is the first ones;
        all are looked through where others are far beyond, such as those stamped while a clock was wrong.
        """
        gone = []
        while self._held and self._held[0].time < oldest:
            gone.append(self._held.popleft())
        if self._oldest < oldest - _LATE:
            gone += [held for held in self._held if held.time < oldest]
            self._held = deque(held for held in self._held if held.time >= oldest)
            self._oldest = min((held.time for held in self._held), default=float("inf"))
        return gone

    def forget(self, user_id: str) -> list[H]:
        """Remove all that the user did."""
        gone = [held for held in self._held if held.user_id == user_id]
        if gone:
            self._held = deque(held for held in self._held if held.user_id != user_id)
        return gone

    def clear(self) -> None:
        """Remove all."""
        self._held.clear()
        self._oldest = float("inf")
