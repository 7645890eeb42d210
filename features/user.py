"""What is known of a user from its history: activity, pace, and what kind of items it takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.compiled import compiled, fixed
from features.histories import Histories, Ints, Times, Weights
from features.item import DAY, Columns, ItemFeatures
from features.tables import BoolArray

SESSION_SECONDS = 1800.0
_RECENT, _LIMIT = 5.0, 100  # half-life and reach in moments
_Numbers = npt.NDArray[np.float32]


def user_columns(histories: Histories, items: ItemFeatures) -> Columns:
    """Features of each history, (n,) float32; NaN where there is nothing to measure.

    Gaps are in log(1 + seconds): since the newest event, and the mean between moments. The shares of new items are
    those untouched when the statistics were made, in the newest moment and lately: who takes one takes another.
    """
    activity = _activity(
        fixed(histories.indptr), fixed(histories.moments), fixed(histories.times), fixed(histories.as_of)
    )
    touches = histories.last_touches
    own = fixed(touches.indptr), fixed(touches.item_rows), fixed(touches.moments_ago), fixed(touches.weights)
    distinct, last_basket, popularity = _taken(*own, fixed(items.popularity))
    untouched = fixed(items.untouched)
    last, recent = (histories.weighted(half_life, _LIMIT) for half_life in (0.0, _RECENT))
    return {
        "user:events": activity[0],
        "user:items": np.log1p(distinct).astype(np.float32),
        "user:moments": activity[1],
        "user:repeat_share": (1 - distinct / np.maximum(histories.lengths, 1)).astype(np.float32),
        "user:last_basket": last_basket,
        "user:gap": activity[2],
        "user:mean_gap": activity[3],
        "user:days_known": activity[4],
        "user:session_events": activity[5],
        "user:new_last": _share(fixed(last.data), fixed(last.indices), fixed(last.indptr), untouched),
        "user:new_recent": _share(fixed(recent.data), fixed(recent.indices), fixed(recent.indptr), untouched),
        "user:mean_popularity": popularity,
    }


def mean_numbers(histories: Histories, items: ItemFeatures) -> _Numbers:
    """(n, num_numbers): the mean of each number (price, ...) over the history's liked items; NaN where unknown."""
    return mean_of_liked(histories, items.numbers)


def mean_of_liked(histories: Histories, numbers: _Numbers) -> _Numbers:
    """(n, num_numbers): the means of `numbers` (n_items, num_numbers) over the history's liked items that have any."""
    touches = histories.last_touches
    own = fixed(touches.indptr), fixed(touches.item_rows), fixed(touches.weights)
    return _means(*own, fixed(numbers))


@compiled
def _activity(indptr: Ints, moments: Ints, times: Times, as_of: Times) -> _Numbers:
    """(6, n): log counts of events and moments, the two gaps, days since the first event, events of this session."""
    out = np.full((6, len(as_of)), np.nan, np.float32)
    for row in range(len(as_of)):
        first, stop = indptr[row], indptr[row + 1]
        num_moments = moments[stop - 1] + 1 if stop > first else 0
        out[0, row], out[1, row], out[5, row] = np.log1p(stop - first), np.log1p(num_moments), 0
        if stop == first:
            continue
        out[2, row] = np.log1p(np.maximum(as_of[row] - times[stop - 1], 0.0))
        out[3, row] = np.log1p(np.maximum((times[stop - 1] - times[first]) / max(num_moments - 1, 1), 0.0))
        out[4, row] = (as_of[row] - times[first]) / DAY
        for event in range(first, stop):
            if as_of[row] - times[event] < SESSION_SECONDS:
                out[5, row] += 1
    return out


@compiled
def _taken(
    indptr: Ints, item_rows: Ints, moments_ago: Ints, weights: Weights, popularity: _Numbers
) -> tuple[Ints, _Numbers, _Numbers]:
    """Each (n,): distinct items, liked items of the newest moment, the mean log popularity of the liked ones."""
    n = len(indptr) - 1
    distinct, newest, mean = np.empty(n, np.int64), np.zeros(n, np.float32), np.full(n, np.nan, np.float32)
    for row in range(n):
        total, liked = 0.0, 0
        distinct[row] = indptr[row + 1] - indptr[row]
        for place in range(indptr[row], indptr[row + 1]):
            if weights[place] > 0:
                total, liked = total + popularity[item_rows[place], -1], liked + 1
                newest[row] += moments_ago[place] == 0
        if liked:
            mean[row] = total / liked
    return distinct, newest, mean


@compiled
def _share(weights: Weights, item_rows: Ints, indptr: Ints, chosen: BoolArray) -> _Numbers:
    """(n,): the share of each history's weight that is on `chosen` (n_items,) items; NaN without any weight."""
    out = np.full(len(indptr) - 1, np.nan, np.float32)
    for row in range(len(out)):
        own, total = 0.0, 0.0
        for place in range(indptr[row], indptr[row + 1]):
            total += weights[place]
            if chosen[item_rows[place]]:
                own += weights[place]
        if total > 0:
            out[row] = own / total
    return out


@compiled
def _means(indptr: Ints, item_rows: Ints, weights: Weights, numbers: _Numbers) -> _Numbers:
    """(n, num_numbers): see `mean_numbers`."""
    out = np.full((len(indptr) - 1, numbers.shape[1]), np.nan, np.float32)
    for row in range(len(out)):
        for k in range(numbers.shape[1]):
            total, known = 0.0, 0
            for place in range(indptr[row], indptr[row + 1]):
                value = numbers[item_rows[place], k]
                if weights[place] > 0 and not np.isnan(value):
                    total, known = total + value, known + 1
            if known:
                out[row, k] = total / known
    return out
