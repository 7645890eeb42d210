"""Taken: the events that live counters hold as columns, for sums over all of them without a loop over each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Taken:
    """Events in the order of their numbers: `codes` (n,) int64 into `item_ids`, `times` (n,) float64 unix seconds,
    `weights` (n,) float64. `item_ids` only ever grows while it is the same object.
    """

    item_ids: Sequence[str]
    codes: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.codes)

    def after(self, time: float) -> Taken:
        """Those that happened later than that."""
        return self.select(self.times > time)

    def select(self, events: npt.NDArray[np.bool_]) -> Taken:
        """Those where `events` (n,) is true."""
        return Taken(self.item_ids, self.codes[events], self.times[events], self.weights[events])

    def decayed(self, half_life: float, now: float) -> npt.NDArray[np.float64]:
        """The weights, (n,), halved every `half_life` seconds up to `now`; what is dated ahead counts as of now."""
        return np.asarray(self.weights * 0.5 ** (np.maximum(now - self.times, 0.0) / half_life), np.float64)


class TakenColumns:
    """A ring with room for `capacity` events. Not safe for threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._times, self._weights = np.zeros(capacity), np.zeros(capacity)
        self._codes = np.zeros(capacity, np.int64)
        self._item_ids: list[str] = []
        self._code_of: dict[str, int] = {}
        self._next = 0

    def add(self, item_id: str, time: float, weight: float) -> int:
        """Where the event is kept, -1 where there is no room or the ids have become too many: start anew then."""
        slot = self._next % self._capacity
        if self._weights[slot] or len(self._item_ids) > 2 * self._capacity:
            return -1
        code = self._code_of.setdefault(item_id, len(self._item_ids))
        if code == len(self._item_ids):
            self._item_ids.append(item_id)
        self._codes[slot], self._times[slot], self._weights[slot] = code, time, weight
        self._next += 1
        return slot

    def remove(self, slot: int) -> None:
        """Let go of the event that is kept there."""
        self._weights[slot] = 0.0

    def taken(self) -> Taken:
        """What is held now."""
        first = self._next % self._capacity if self._next > self._capacity else 0
        order = np.roll(np.arange(self._capacity), -first)[: min(self._next, self._capacity)]
        order = order[self._weights[order] > 0]
        return Taken(self._item_ids, self._codes[order], self._times[order], self._weights[order])
