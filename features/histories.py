"""Histories: what each request's user did, as flat arrays. The only thing that sources and features know of a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from features.compiled import compiled, fixed
from features.item_sets import ItemSets
from features.runs import ends
from features.tables import BoolArray, FloatArray, IntArray

Ints = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
S = TypeVar("S", bound=np.generic)
NO_LIMIT = np.iinfo(np.int64).max
_LEAST = np.float32(1e-4)
"""What weighs no more is left out."""


@dataclass(frozen=True)
class LastTouches:
    """One row per (history, distinct item): flat arrays, grouped by history, oldest last touch first.

    `moments_ago` counts the user's moments with a liked event after the item's last touch (0 = the newest such moment);
    items of one basket share it, because a basket has no order. `first_ago` counts them after its first liked touch
    (its last, where none is liked). `counts` is how often the item was touched, `weights` the largest weight of these
    touches and `last_weights` that of the last moment in which they weighed anything (0: there is none).
    """

    indptr: npt.NDArray[np.int64]
    item_rows: npt.NDArray[np.int64]
    moments_ago: npt.NDArray[np.int64]
    first_ago: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    last_weights: npt.NDArray[np.float32]
    times: npt.NDArray[np.float64]

    @cached_property
    def query_rows(self) -> npt.NDArray[np.int64]:
        """Which history each entry belongs to."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


@dataclass(frozen=True)
class HistoryWeights:
    """How much each item of each history counts, in CSR form: history q has indices[indptr[q]:indptr[q + 1]].
    `places` are the entries' places among the histories' last touches.
    """

    data: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]
    indptr: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def span(self, query_row: int) -> slice:
        """Where one history's entries are."""
        return slice(int(self.indptr[query_row]), int(self.indptr[query_row + 1]))

    def sums(self, matrix: sp.csr_matrix) -> npt.NDArray[np.float64]:
        """(n, num_columns): the weighted sums of the items' rows of `matrix` (n_items, num_columns) CSR float32."""
        own = fixed(self.data), fixed(self.indices), fixed(self.indptr)
        return _sums(*own, fixed(matrix.data), fixed(matrix.indices), fixed(matrix.indptr), matrix.shape[1])


@dataclass(frozen=True)
class Histories:
    """n histories in flat form, oldest event first within each.

    `indptr` (n + 1,) int64; `item_rows` int64; `times` float64, unix seconds (NaN: unknown); `moments` int64, the
    position of the event's moment in its history, events of one moment being a basket; `weights` float32, the event
    type's weight (0: no sign of interest; below 0: not wanted); `as_of` (n,) float64, the time the list is for (NaN: no
    clock). Built by `build`.
    """

    indptr: npt.NDArray[np.int64]
    item_rows: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    moments: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    as_of: npt.NDArray[np.float64]
    num_items: int

    @classmethod
    def build(
        cls,
        item_rows: Sequence[IntArray],
        orders: Sequence[FloatArray],
        weights: Sequence[FloatArray],
        as_of: FloatArray,
        num_items: int,
        clocked: BoolArray,
    ) -> Histories:
        """From one array triple a history. `orders` sorts the events: unix seconds where `clocked` (n,) is true,
        else positions; equal orders are one moment. Within a moment events are sorted by item row, so that file
        order can't matter.
        """
        indptr = ends(np.array([len(own) for own in item_rows], np.int64))
        rows, order_values = _flat(item_rows, np.int64), _flat(orders, np.float64)
        order, moments = _in_order(fixed(indptr), fixed(rows), fixed(order_values))
        times = order_values[order]
        times[~np.repeat(clocked, np.diff(indptr))] = np.nan
        weight_values = _flat(weights, np.float32)[order]
        return cls(indptr, rows[order], times, moments, weight_values, np.asarray(as_of, np.float64), num_items)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Events in each history, (n,)."""
        return np.diff(self.indptr)

    @cached_property
    def query_rows(self) -> npt.NDArray[np.int64]:
        """Which history each event belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def last_touches(self) -> LastTouches:
        """The distinct items of each history with their last touch."""
        indptr, places, ago, first, counts, strongest, newest = _last_touches(
            fixed(self.indptr), fixed(self.item_rows), fixed(self.moments), fixed(self.weights)
        )
        return LastTouches(indptr, self.item_rows[places], ago, first, counts, strongest, newest, self.times[places])

    @cached_property
    def seen(self) -> ItemSets:
        """The items of each history, whatever the event."""
        touches = self.last_touches
        order = np.lexsort((touches.item_rows, touches.query_rows))
        return ItemSets(touches.indptr, touches.item_rows[order])

    @cached_property
    def dismissed(self) -> HistoryWeights:
        """The items that each history's user does not want, by what happened last; each weighs 1, the oldest first."""
        touches = self.last_touches
        places = np.flatnonzero(touches.last_weights < 0)
        indptr = ends(np.bincount(touches.query_rows[places], minlength=len(self)))
        return HistoryWeights(np.ones(len(places), np.float32), touches.item_rows[places], indptr, places)

    @cached_property
    def dismissed_items(self) -> ItemSets:
        """The same as sets."""
        found = self.dismissed
        return ItemSets.of([found.indices[found.span(row)] for row in range(len(self))])

    def weighted(self, half_life: float | None, limit: int | None = None) -> HistoryWeights:
        """Each liked item's event weight, halved every `half_life` moments (None: no decay; 0: the newest moment
        alone), over the newest `limit` moments (None: all). Items whose events weigh nothing are left out. Sources
        share what one of them has asked for.
        """
        key = (half_life, limit)
        if key not in self._weighted:
            self._weighted[key] = self._weigh(half_life, limit)
        return self._weighted[key]

    @cached_property
    def _weighted(self) -> dict[tuple[float | None, int | None], HistoryWeights]:
        return {}

    def _weigh(self, half_life: float | None, limit: int | None) -> HistoryWeights:
        touches = self.last_touches
        values, places, indptr = _weighed(
            fixed(touches.indptr), fixed(touches.weights), fixed(touches.moments_ago),
            np.inf if half_life is None else float(half_life), NO_LIMIT if limit is None else limit,
        )  # fmt: skip
        return HistoryWeights(values, touches.item_rows[places], indptr, places)

    def at_rows(self, rows: IntArray) -> Histories:
        """The histories at `rows`, in that order."""
        lengths = self.lengths[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return Histories(
            indptr,
            self.item_rows[flat],
            self.times[flat],
            self.moments[flat],
            self.weights[flat],
            self.as_of[rows],
            self.num_items,
        )


def _flat(parts: Sequence[npt.NDArray[Any]], dtype: type[S]) -> npt.NDArray[S]:
    return np.concatenate(parts).astype(dtype, copy=False) if len(parts) else np.empty(0, dtype)


@compiled
def _in_order(indptr: Ints, item_rows: Ints, orders: Times) -> tuple[Ints, Ints]:
    """The places of the events by history, order and item, and each one's moment in its history."""
    places, moments = np.empty(len(item_rows), np.int64), np.empty(len(item_rows), np.int64)
    for row in range(len(indptr) - 1):
        start, stop = indptr[row], indptr[row + 1]
        own = start + np.argsort(item_rows[start:stop], kind="mergesort")
        own = own[np.argsort(orders[own], kind="mergesort")]
        moment = 0
        for k in range(stop - start):
            moment += k > 0 and orders[own[k]] != orders[own[k - 1]]
            places[start + k], moments[start + k] = own[k], moment
    return places, moments


@compiled
def _weighed(indptr: Ints, weights: Weights, ago: Ints, half_life: float, limit: int) -> tuple[Weights, Ints, Ints]:
    """See `Histories.weighted`, for the touches at `indptr`: the weights that count, whose they are, and where each
    history's end. A `half_life` without end is no decay.
    """
    values, places = np.empty(len(weights), np.float32), np.empty(len(weights), np.int64)
    found, n = np.zeros(len(indptr), np.int64), 0
    for row in range(len(indptr) - 1):
        for place in range(indptr[row], indptr[row + 1]):
            decayed = 1.0 if ago[place] == 0 else 0.0
            if half_life > 0:
                decayed = 0.5 ** (ago[place] / half_life)
            value = weights[place] * np.float32(decayed)
            if value > _LEAST and ago[place] < limit:
                values[n], places[n] = value, place
                n += 1
        found[row + 1] = n
    return values[:n], places[:n], found


@compiled
def _sums(
    data: Weights, indices: Ints, indptr: Ints, values: Weights, columns: IntArray, starts: IntArray, num_columns: int
) -> Times:
    """(n, num_columns): each row's weighted sum of the rows of a CSR matrix, in the order of the entries."""
    sums = np.zeros((len(indptr) - 1, num_columns), np.float64)
    for row in range(len(sums)):
        for entry in range(indptr[row], indptr[row + 1]):
            for k in range(starts[indices[entry]], starts[indices[entry] + 1]):
                sums[row, columns[k]] += data[entry] * values[k]
    return sums


@compiled
def _last_touches(
    indptr: Ints, item_rows: Ints, moments: Ints, weights: Weights
) -> tuple[Ints, Ints, Ints, Ints, Ints, Weights, Weights]:
    """Of each history's distinct items in the order of their last touches: where each history's begin, the places of
    the touches among all events, the liked moments since, and since the first that was liked, how often and with what
    weight at most each was touched, and with what weight at most in the last moment that says anything; a moment's
    events have no order.
    """
    found, size = np.zeros(len(indptr), np.int64), len(item_rows)
    places, ago, first_ago = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    counts = np.empty(size, np.int64)
    strongest, newest = np.empty(size, np.float32), np.empty(size, np.float32)
    at_place = np.empty(size, np.int64)  # of an item's last touch: its first among the events sorted by item
    n = 0
    for row in range(len(indptr) - 1):
        start, stop = indptr[row], indptr[row + 1]
        order = start + np.argsort(item_rows[start:stop], kind="mergesort")
        at_place[start:stop] = -1
        first = 0
        for k in range(stop - start):
            if k + 1 == stop - start or item_rows[order[k + 1]] != item_rows[order[k]]:
                at_place[order[k]], first = first, k + 1
        liked = _liked_moments(moments[start:stop], weights[start:stop])
        for event in range(start, stop):
            if at_place[event] >= 0:
                k, most, last, times = at_place[event], np.float32(-np.inf), np.float32(0), 0
                told, begun = np.int64(-1), liked[event - start]
                while k < stop - start and item_rows[order[k]] == item_rows[event]:
                    weight, moment = weights[order[k]], moments[order[k]]
                    if weight != 0:
                        last = max(last, weight) if moment == told else weight
                        told = moment
                    if weight > 0 >= most:
                        begun = liked[order[k] - start]
                    most, times, k = max(most, weight), times + 1, k + 1
                places[n], ago[n], counts[n] = event, liked[-1] - liked[event - start], times
                first_ago[n] = liked[-1] - begun
                strongest[n], newest[n] = most, last
                n += 1
        found[row + 1] = n
    return found, places[:n], ago[:n], first_ago[:n], counts[:n], strongest[:n], newest[:n]


@compiled
def _liked_moments(moments: Ints, weights: Weights) -> Ints:
    """For each event of one history, how many of its moments held a liked event up to then, its own included."""
    liked = np.empty(len(moments), np.int64)
    running, last = 0, np.int64(-1)
    for event in range(len(moments)):
        if weights[event] > 0 and moments[event] != last:
            running, last = running + 1, moments[event]
        liked[event] = running
    for event in range(len(moments) - 2, -1, -1):
        if moments[event] == moments[event + 1]:
            liked[event] = liked[event + 1]  # a basket has no order
    return liked
