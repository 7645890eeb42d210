"""The one contract of event stores, and the values that go in and come out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from features.event_rows import DEFAULT_EVENT

Verdict = Literal["accepted", "duplicate", "forgotten"]
"""What became of an event: "forgotten" is one from before its user was forgotten, which is not stored."""
MAX_ID_BYTES = 2048
"""Of a user, item or event id in UTF-8: an index entry of PostgreSQL holds no more than some 2,700."""
MAX_TEXT = 1024
"""Characters of a search query, a session or an event's name."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> bool:
    """Whether every store can hold the text: PostgreSQL has no NUL, and UTF-8 no surrogates, the halves of a character
    that JSON lets through (a `\\ud83d` that is alone).
    """
    return not _UNSTORABLE.search(text)


@dataclass(frozen=True, slots=True)
class Event:
    """Somebody did something with an item at `time` (unix seconds). Without an `event_id` the event gets one that is
    made of user, item, event and time, so that it is stored once however often it is sent.
    """

    user_id: str
    item_id: str
    time: float
    event: str = DEFAULT_EVENT
    value: float = 1.0
    event_id: str = ""
    session_id: str | None = None
    request_id: str | None = None
    query: str | None = None


def identified(event: Event) -> Event:
    """The event with an id."""
    if event.event_id:
        return event
    parts = (event.user_id, event.item_id, event.event, repr(float(event.time)))
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return replace(event, event_id=f"derived:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}")


@dataclass(frozen=True)
class StoredEvents:
    """What a store knows of one user, oldest first: `item_ids`, `kinds` (the event names) and `times` (unix seconds),
    one entry an event. `forgotten_at`: what was known of the user before is to be ignored; None: never forgotten.
    """

    item_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    times: tuple[float, ...]
    forgotten_at: float | None = None

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Forgotten:
    """A user was forgotten `at` that time, unix seconds."""

    sequence: int
    user_id: str
    at: float


@dataclass(frozen=True)
class Changes:
    """What was written after a number: `events` with the numbers they got (ascending) and the users forgotten since.
    Everything up to `sequence` is in it.
    """

    sequence: int
    events: tuple[tuple[int, Event], ...]
    forgotten: tuple[Forgotten, ...]


@dataclass(frozen=True)
class StoredItem:
    """The newest state of an item: its document, or None where it was deleted."""

    sequence: int
    item_id: str
    document: Mapping[str, Any] | None


class EventStore(Protocol):
    """Keeps what happens while a service runs. Safe for threads, for processes that fork and for several machines.

    Every write has one number, larger than all before it, and becomes visible in the order of the numbers: who has
    read everything up to n misses nothing by asking for what came after n. What a method has returned from is durable.
    Each raises StoreError where the store can't be used at the moment, and has then changed nothing; only a write
    whose connection broke at its very end may have been made all the same, so it is sent again, which is harmless.
    """

    def append(self, events: Sequence[Event]) -> list[Verdict]:
        """Store events, all in one step; one verdict an event. Of several with one event_id the first counts."""
        ...

    def history(self, user_id: str, before: float | None = None, up_to: int | None = None) -> StoredEvents:
        """What the user did: the newest `StoreSettings.max_history` events with time < `before` and number <= `up_to`
        (None: all).
        """
        ...

    def changes(self, after: int, limit: int = 10_000, up_to: int | None = None) -> Changes:
        """What was written after the number `after` and up to `up_to` (None: all), at most `limit` events of it, in
        order.
        """
        ...

    def forgotten(self, after: int = 0) -> list[Forgotten]:
        """Who was forgotten after the number `after`, in order."""
        ...

    def head(self) -> int:
        """The number of the newest write; 0 for an empty store."""
        ...

    def live_start(self, since: float, max_events: int, up_to: int | None = None) -> int:
        """The number after which, up to `up_to` (None: all), the newest `max_events` events that happened at `since` or
        later come.
        """
        ...

    def searched(self, since: float, max_events: int, up_to: int) -> list[Event]:
        """The newest `max_events` events with a query and a number <= `up_to` that happened at `since` or later, in the
        order of their numbers.
        """
        ...

    def newest_time(self) -> float | None:
        """When the newest event happened, unix seconds; None without events."""
        ...

    def forget(self, user_id: str, at: float) -> int:
        """Remove the user's events, and hide what bundles know from before `at`; returns how many were removed."""
        ...

    def put_items(self, documents: Mapping[str, Mapping[str, Any]]) -> int:
        """Store items by id, each as a JSON-able document that replaces what there was; returns the last number."""
        ...

    def delete_item(self, item_id: str) -> int:
        """Note that the item is gone, known here or not; returns the number."""
        ...

    def items_since(self, after: int, limit: int = 10_000) -> list[StoredItem]:
        """The newest state of the items written after the number `after`, in order."""
        ...

    def prune(self, now: float, max_rows: int = 10_000) -> int:
        """Remove at most `max_rows` events beyond what the settings keep; returns how many, 0 when done."""
        ...

    def close(self) -> None:
        """Give the connections back; the store can still be used, and opens new ones."""
        ...
