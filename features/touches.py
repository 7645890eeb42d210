"""Touches: at which moments somebody took an item, and how the items taken before stand at a later moment.

Logarithms of times are kept in steps of 1/1024 octave, so that sums of them are exact in any order and any batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.runs import ends, rank_in_run
from features.tables import BoolArray, Events, FloatArray, IntArray

_STEPS = 1024.0
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def octaves(spans: FloatArray) -> Floats:
    """log2 of time spans of at least one unit, rounded to 1/1024; NaN stays."""
    return np.asarray(np.rint(np.log2(np.maximum(spans, 1.0)) * _STEPS) / _STEPS, np.float64)


@dataclass(frozen=True)
class Standing:
    """How items taken before stand at a later moment: one row a (owner, item, moment), all (n_rows,).

    `takes` int64: moments in which the owner took the item; `moments_ago`: the owner's moments since the last of them
    (0: it was the newest); `chances`: the owner's moments since the first, each of which could have held it again.
    `since` float64: octaves of seconds since the last take, of moments without a clock (NaN: unknown); `gap_sums`: the
    sum of the octaves of the gaps between the takes.
    """

    owners: Ints
    item_rows: Ints
    takes: Ints
    moments_ago: Ints
    chances: Ints
    since: Floats
    gap_sums: Floats

    def __len__(self) -> int:
        return len(self.owners)


@dataclass(frozen=True)
class Touches:
    """One row a touch, an (owner, item, moment) with a liked event, sorted in that order.

    `moments` int64 count the owner's moments with a liked event from 0; `times` float64 are unix seconds (without a
    clock: `moments`); `takes`: the pair's touches so far, this one included; `firsts`: the moment of its first;
    `gap_sums`: octaves of its gaps so far. Owner o's moments have the times
    moment_times[moment_starts[o]:moment_starts[o + 1]].
    """

    owners: Ints
    item_rows: Ints
    moments: Ints
    times: Floats
    takes: Ints
    firsts: Ints
    gap_sums: Floats
    moment_times: Floats
    moment_starts: Ints

    @classmethod
    def of_events(cls, events: Events, weights: FloatArray, num_users: int) -> Self:
        """The users' touches; `weights` (n_events,) > 0 says which events are liked."""
        liked = np.asarray(weights > 0)
        users, items, times = events.user_rows[liked], events.item_rows[liked], events.times[liked]
        return cls._build(users, items, times, times if events.has_clock else None, num_users)

    @classmethod
    def of_histories(cls, histories: Histories, has_clock: bool) -> Self:
        """Each history's touches; the owners are the histories' positions."""
        liked = histories.weights > 0
        owners, items, moments = histories.query_rows[liked], histories.item_rows[liked], histories.moments[liked]
        return cls._build(owners, items, moments, histories.times[liked] if has_clock else None, len(histories))

    @classmethod
    def _build(
        cls,
        owners: IntArray,
        item_rows: IntArray,
        orders: npt.NDArray[Any],
        times: FloatArray | None,
        num_owners: int,
    ) -> Self:
        order = np.lexsort((orders, owners))
        who, what, orders = owners[order].astype(np.int64), item_rows[order].astype(np.int64), orders[order]
        new = _changes(who, orders)
        moment_starts = ends(np.bincount(who[new], minlength=num_owners))
        moments = np.cumsum(new) - 1 - moment_starts[who]
        at = moments.astype(np.float64) if times is None else times[order].astype(np.float64)
        by_pair = np.lexsort((moments, what, who))
        by_pair = by_pair[_changes(who[by_pair], what[by_pair], moments[by_pair])]
        return cls._of_distinct(who[by_pair], what[by_pair], moments[by_pair], at[by_pair], at[new], moment_starts)

    @classmethod
    def _of_distinct(
        cls, owners: Ints, item_rows: Ints, moments: Ints, times: Floats, moment_times: Floats, moment_starts: Ints
    ) -> Self:
        first = _changes(owners, item_rows)
        pair = np.cumsum(first) - 1
        gaps = np.zeros(len(times))
        gaps[1:] = np.nan_to_num(octaves(np.diff(times)))
        gaps[first] = 0.0
        sums = np.cumsum(gaps)
        return cls(
            owners, item_rows, moments, times, rank_in_run(pair) + 1, moments[first][pair],
            sums - sums[first][pair], moment_times, moment_starts,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.owners)

    @cached_property
    def num_moments(self) -> Ints:
        """Moments of each owner, (n_owners,)."""
        return np.diff(self.moment_starts)

    @cached_property
    def is_last(self) -> BoolArray:
        """The pair's last touch, (n_touches,)."""
        out = np.ones(len(self), bool)
        out[:-1] = _changes(self.owners, self.item_rows)[1:]
        return out

    @cached_property
    def gaps(self) -> Floats:
        """Octaves from the pair's touch before to this one, (n_touches,); NaN at its first."""
        out = np.full(len(self), np.nan)
        out[1:] = np.diff(self.gap_sums)
        out[self.takes == 1] = np.nan
        return out

    def standing(self, rows: Ints, moments: Ints, times: FloatArray) -> Standing:
        """How the pairs of the touches `rows` stand at later `moments` of their owners, at `times`, when these touches
        were their last.
        """
        ago = moments - self.moments[rows] - 1
        return Standing(
            self.owners[rows], self.item_rows[rows], self.takes[rows], ago, moments - self.firsts[rows] - 1,
            octaves(times - self.times[rows]), self.gap_sums[rows],
        )  # fmt: skip


def standing_now(histories: Histories, has_clock: bool) -> Standing:
    """How the liked items of each history stand at the time that its list is for, sorted by history and item."""
    touches = Touches.of_histories(histories, has_clock)
    last = np.flatnonzero(touches.is_last)
    now = touches.num_moments[touches.owners[last]]
    times = histories.as_of[touches.owners[last]] if has_clock else now.astype(np.float64)
    return touches.standing(last, now, times)


def _changes(*columns: npt.NDArray[Any]) -> BoolArray:
    """Where any of the columns differs from the row before, (n,) bool; the first row does."""
    out = np.ones(len(columns[0]), bool)
    out[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return out
