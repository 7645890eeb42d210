"""What is known of an item by itself: how often and how lately it was taken, its age, price and other numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.categories import first_categories, price_steps
from features.compiled import compiled, fixed
from features.decay import continued, half_life, time_decay
from features.row_changes import RowChanges
from features.tables import PRICE, PUBLISHED_AT, BoolArray, Catalogue, Events, FloatArray, IntArray

DAY = 86_400.0
_USUAL_DISMISSALS = 5.0
"""How many of an item's own events the share of all items counts for."""
Numbers = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
Columns = dict[str, Numbers]


@dataclass(frozen=True)
class ItemFeatures:
    """Statistics of every item from the events known, all (n_items, ...).

    `popularity` (n_items, num_half_lives + 1) float32: log(1 + decayed weight), shortest half-life first, the last
    one without decay. `first_seen`, `last_seen`, `published_at` float64 unix seconds (NaN: never, or no clock).
    `repeat_share` float32: of the item's buyers, the share that took it in a second moment. `numbers` (n_items,
    num_numbers) float32: price and the numeric attributes, NaN for unknown, named by `number_names`;
    `usual_numbers` (num_numbers,) float32: their means over what is taken lately. `half_lives` (num_half_lives,) are
    in seconds; empty without a clock. `dismissed_share` (n_items,) float32: of the events that take or dismiss the
    item, the share of dismissals, drawn to that of all items; NaN for what was neither, empty where dismissals are
    unknown. `price_step` (n_items,) float32: see `price_steps`.

    Of an untouched item only the price is told, and its age, which at a list's own moment says no more than it does in
    service. The catalogue also holds what came after the events, and a ranker would learn from a year or a serial
    number that such an item is never right, which in service it is.
    """

    popularity: npt.NDArray[np.float32]
    first_seen: npt.NDArray[np.float64]
    last_seen: npt.NDArray[np.float64]
    published_at: npt.NDArray[np.float64]
    repeat_share: npt.NDArray[np.float32]
    numbers: npt.NDArray[np.float32]
    number_names: tuple[str, ...]
    usual_numbers: npt.NDArray[np.float32]
    half_lives: tuple[float, ...] = field(default_factory=tuple)
    dismissed_share: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    price_step: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @classmethod
    def fit(
        cls,
        catalogue: Catalogue,
        events: Events,
        weights: FloatArray,
        recent_shares: tuple[float, ...],
        *,
        has_dismissals: bool = False,
    ) -> Self:
        """Count `events` (only those that may be known), each with its weight; below 0 it is a dismissal, which counts
        where the data have any (`has_dismissals`), if not yet.
        """
        n = len(catalogue)
        dismissed = _dismissed_share(events.item_rows, weights, n) if has_dismissals else np.empty(0, np.float32)
        liked = np.asarray(weights > 0)
        events, weights = events.select(liked), weights[liked]
        spans = [half_life(events, share) for share in recent_shares]
        counted = [weights * time_decay(events, span) for span in (*spans, None)]
        columns = [np.bincount(events.item_rows, decayed, n) for decayed in counted]
        first, last = _first_and_last(events, n)
        names = (PRICE, *(a for a in catalogue.attributes if pd.api.types.is_numeric_dtype(catalogue.frame[a])))[:8]
        numbers = np.stack([catalogue.frame[name].to_numpy(np.float32) for name in names], axis=1)
        published = catalogue.frame[PUBLISHED_AT].to_numpy(np.float64)
        popularity = np.log1p(np.stack(columns, axis=1)).astype(np.float32)
        numbers[np.ix_(popularity[:, -1] == 0, [name != PRICE for name in names])] = np.nan
        usual = _usual(numbers[events.item_rows], counted[0])
        half_lives = tuple(span for span in spans if span is not None)
        return cls(
            popularity, first, last, published, _repeat_share(events, n), numbers, names, usual, half_lives, dismissed,
            price_steps(numbers[:, names.index(PRICE)], first_categories(catalogue)),
        )  # fmt: skip

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`: nobody has taken what is new; prices, dates and other numbers follow."""
        published = changes.frame[PUBLISHED_AT].to_numpy(np.float64)
        numbers = np.stack([changes.frame[name].to_numpy(np.float32) for name in self.number_names], axis=1)
        hidden = np.array([name != PRICE for name in self.number_names], bool)
        numbers[np.ix_(changes.untouched, hidden)] = np.nan
        return dataclasses.replace(
            self,
            popularity=changes.lengthened(self.popularity, 0.0),
            first_seen=changes.lengthened(self.first_seen, np.nan),
            last_seen=changes.lengthened(self.last_seen, np.nan),
            published_at=changes.written(self.published_at, published),
            repeat_share=changes.lengthened(self.repeat_share, 0.0),
            numbers=changes.written(self.numbers, numbers),
            dismissed_share=(
                changes.lengthened(self.dismissed_share, np.nan) if len(self.dismissed_share) else self.dismissed_share
            ),
            price_step=self._changed_steps(changes),
        )

    def _changed_steps(self, changes: RowChanges) -> Numbers:
        """As all prices are now; where no two ladders are left, nothing is known."""
        if not len(self.price_step):
            return self.price_step
        prices = self.numbers[:, self.number_names.index(PRICE)]
        now = price_steps(changes.written(prices, changes.frame[PRICE].to_numpy(np.float32)), changes.categories)
        return now if len(now) else np.full(changes.num_items, np.nan, np.float32)

    def after(self, later: Mapping[float, FloatArray], first: FloatArray, last: FloatArray) -> Self:
        """The same when it has gone on. `later[half_life]` (n_items,) are the weights of the events that came since,
        decayed by each of `half_lives`; `first` and `last` (n_items,) when the first and the last of them happened
        (NaN: none). What does not decay stays, and so does what is `untouched`: to the ranker that is what nobody had
        taken before a label window.
        """
        popularity = self.popularity.copy()
        for k, span in enumerate(self.half_lives):
            popularity[:, k] = np.log1p(continued(np.expm1(popularity[:, k].astype(np.float64)), later[span]))
        return dataclasses.replace(
            self, popularity=popularity, first_seen=np.fmin(self.first_seen, first),
            last_seen=np.fmax(self.last_seen, last),
        )  # fmt: skip

    def following(self, base: Self) -> Self:
        """What has gone on (see `after`), over a catalogue that has grown or changed: `base` are the statistics of the
        training over it. Nobody has taken what is new.
        """
        new = slice(len(self.popularity), None)
        return dataclasses.replace(
            base,
            popularity=np.concatenate([self.popularity, base.popularity[new]]),
            first_seen=np.concatenate([self.first_seen, base.first_seen[new]]),
            last_seen=np.concatenate([self.last_seen, base.last_seen[new]]),
        )

    @cached_property
    def untouched(self) -> BoolArray:
        """(n_items,) bool: nobody has taken it, as far as is known."""
        return np.asarray(self.popularity[:, -1] == 0)

    def columns(self, item_rows: IntArray, as_of: FloatArray) -> Columns:
        """Features of (item, time) pairs, each (n_pairs,)."""
        rows = fixed(item_rows)
        times = fixed(self.published_at), fixed(self.first_seen), fixed(self.last_seen)
        values = _columns(
            rows, fixed(np.asarray(as_of, np.float64)), fixed(self.popularity), *times, fixed(self.repeat_share),
            fixed(self.numbers), fixed(self.usual_numbers),
        )  # fmt: skip
        names = [f"item:popularity_{k}" for k in range(self.popularity.shape[1])]
        names += ["item:trend", "item:age_days", "item:days_since_last_event", "item:repeat_share"]
        names += [f"item:ahead:{name}" for name in self.number_names]
        return dict(zip(names, values, strict=True))


@compiled
def _columns(
    item_rows: IntArray,
    as_of: Times,
    popularity: Numbers,
    published_at: Times,
    first_seen: Times,
    last_seen: Times,
    repeat_share: Numbers,
    numbers: Numbers,
    usual_numbers: Numbers,
) -> Numbers:
    """(n_columns, n_pairs): popularity by half-life, trend, days since the item appeared and since it was taken, repeat
    share, and each number against what is taken lately: a year of publication means the same in training as in service.
    """
    spans = popularity.shape[1]
    out = np.empty((spans + 4 + numbers.shape[1], len(item_rows)), np.float32)
    for pair, item in enumerate(item_rows):
        out[:spans, pair] = popularity[item]
        out[spans, pair] = popularity[item, 0] - popularity[item, -1]
        out[spans + 1, pair] = (as_of[pair] - np.fmin(published_at[item], first_seen[item])) / DAY
        out[spans + 2, pair] = (as_of[pair] - last_seen[item]) / DAY
        out[spans + 3, pair] = repeat_share[item]
        out[spans + 4 :, pair] = numbers[item] - usual_numbers
    return out


def _dismissed_share(item_rows: IntArray, weights: FloatArray, num_items: int) -> Numbers:
    """(num_items,): see `ItemFeatures`."""
    dismissed, taken = (np.bincount(item_rows[chosen], minlength=num_items) for chosen in (weights < 0, weights > 0))
    total = dismissed + taken
    usual = dismissed.sum() / max(total.sum(), 1)
    shares = (dismissed + _USUAL_DISMISSALS * usual) / (total + _USUAL_DISMISSALS)
    return np.where(total > 0, shares, np.nan).astype(np.float32)


def _usual(numbers: npt.NDArray[np.float32], weights: FloatArray) -> npt.NDArray[np.float32]:
    """Weighted means of the columns of `numbers` (n_events, num_numbers) over the known ones; NaN if there is none."""
    known = ~np.isnan(numbers)
    totals = weights @ known
    sums = weights @ np.where(known, numbers, 0.0).astype(np.float64)
    return np.where(totals > 0, sums / np.where(totals > 0, totals, 1.0), np.nan).astype(np.float32)


def _first_and_last(events: Events, num_items: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    first, last = np.full(num_items, np.inf), np.full(num_items, -np.inf)
    if events.has_clock:
        np.minimum.at(first, events.item_rows, events.times)
        np.maximum.at(last, events.item_rows, events.times)
    return np.where(np.isfinite(first), first, np.nan), np.where(np.isfinite(last), last, np.nan)


def _repeat_share(events: Events, num_items: int) -> npt.NDArray[np.float32]:
    order = np.lexsort((events.times, events.item_rows, events.user_rows))
    users, items, times = events.user_rows[order], events.item_rows[order], events.times[order]
    same_pair = (np.diff(users) == 0) & (np.diff(items) == 0) if len(order) else np.empty(0, bool)
    again = np.concatenate([[False], same_pair & (np.diff(times) > 0)]) if len(order) else same_pair
    first = np.concatenate([[True], ~same_pair]) if len(order) else same_pair
    pair = np.cumsum(first) - 1
    repeated = np.bincount(pair, again, minlength=int(first.sum())) > 0
    buyers = np.bincount(items[first], minlength=num_items)
    repeaters = np.bincount(items[first], repeated, num_items)
    return (repeaters / np.maximum(buyers, 1)).astype(np.float32)
