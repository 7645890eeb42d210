"""Taken: the events that live counters hold as columns, for sums over all of them without a loop over each."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
HOUR = 3600.0
WEIGHT_DIGITS = 3
"""Weights are rounded to thousandths, and counted as whole numbers of them, whose sums do not depend on their order."""
_UNIT = 10**WEIGHT_DIGITS


@dataclass(frozen=True)
class Taken:
    """Events in the order of their numbers: `items` and `users` (n,) int64 are positions in `item_ids` and `user_ids`,
    `times` (n,) float64 unix seconds, `weights` (n,) float64. The ids only ever grow while they are the same object.
    """

    item_ids: Sequence[str]
    user_ids: Sequence[str]
    items: Ints
    users: Ints
    times: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.times)

    def after(self, time: float, now: float) -> Taken:
        """Those that happened later than that; what is dated ahead counts as of `now`."""
        later = self.select(self.times > time)
        return dataclasses.replace(later, times=np.minimum(later.times, now))

    def before(self, time: float) -> Taken:
        """Those that happened earlier than that."""
        return self.select(self.times < time)

    def popularity(self, now: float, hours: float) -> dict[str, float]:
        """How much each item is taken in the `hours` up to `now`: event weights, halved every quarter of that time."""
        ages = now // HOUR - self.times // HOUR
        found = np.zeros(int(self.items.max()) + 1 if len(self) else 0)
        for age in np.unique(ages[(ages >= 0) & (ages <= hours)]).tolist():
            same = ages == age
            counts = np.bincount(self.items[same], np.rint(self.weights[same] * _UNIT), len(found))
            found += counts * 0.5 ** (4 * age / hours) / _UNIT
        return {self.item_ids[item]: float(found[item]) for item in np.flatnonzero(found).tolist()}

    def select(self, events: npt.NDArray[np.bool_] | slice) -> Taken:
        """Some of them."""
        return Taken(
            self.item_ids, self.user_ids, self.items[events], self.users[events], self.times[events],
            self.weights[events],
        )  # fmt: skip

    def decayed(self, half_life: float, now: float) -> npt.NDArray[np.float64]:
        """The weights, (n,), halved every `half_life` seconds up to `now`."""
        return np.asarray(self.weights * 0.5 ** ((now - self.times) / half_life), np.float64)


@dataclass(frozen=True)
class Happened:
    """What live counters know at the time `now`: what was `taken`, of which the last `hours` say what is popular among
    guests, and who was `forgotten`.
    """

    taken: Taken
    now: float
    hours: float
    forgotten: Collection[str] = ()

    @cached_property
    def counts(self) -> dict[str, float]:
        """See `Taken.popularity`."""
        return self.taken.popularity(self.now, self.hours)

    @cached_property
    def newest(self) -> float:
        """When the last event happened; what is dated ahead counts as of `now`."""
        return min(float(self.taken.times.max(initial=-np.inf)), self.now)

    def before(self, time: float) -> Happened:
        """What they would have known at an earlier time, as far as they still hold it."""
        return dataclasses.replace(self, taken=self.taken.before(time), now=time)


class _Codes:
    """Ids and the order in which they came."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._code_of: dict[str, int] = {}

    def __contains__(self, one: str) -> bool:
        return one in self._code_of

    def code(self, one: str) -> int:
        """The position of the id."""
        code = self._code_of.setdefault(one, len(self.ids))
        if code == len(self.ids):
            self.ids.append(one)
        return code


class TakenColumns:
    """A ring with room for `capacity` events. Not safe for threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._times, self._weights = np.zeros(capacity), np.zeros(capacity)
        self._items, self._users = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._item_codes, self._user_codes = _Codes(), _Codes()
        self._next = 0

    def add(self, user_id: str, item_id: str, time: float, weight: float) -> int:
        """Where the event is kept, -1 where there is no room or the ids have become too many: start anew then."""
        slot = self._next % self._capacity
        most = max(len(self._item_codes.ids), len(self._user_codes.ids))
        if self._weights[slot] or most > 2 * self._capacity:
            return -1
        self._items[slot], self._users[slot] = self._item_codes.code(item_id), self._user_codes.code(user_id)
        self._times[slot], self._weights[slot] = time, weight
        self._next += 1
        return slot

    def remove(self, slot: int) -> None:
        """Let go of the event that is kept there."""
        self._weights[slot] = 0.0

    def know(self, item_id: str) -> bool:
        """Whether an event of the item was ever added."""
        return item_id in self._item_codes

    def taken(self) -> Taken:
        """What is held now."""
        first = self._next % self._capacity if self._next > self._capacity else 0
        order = np.roll(np.arange(self._capacity), -first)[: min(self._next, self._capacity)]
        order = order[self._weights[order] > 0]
        return Taken(
            self._item_codes.ids, self._user_codes.ids, self._items[order], self._users[order], self._times[order],
            self._weights[order],
        )  # fmt: skip
