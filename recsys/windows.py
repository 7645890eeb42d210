"""Label windows: moments whose outcome is known, with the events that may be known before them.

With a clock, windows are consecutive time spans at the end of the data: sources are fitted on what came before a
window, and each moment in it is a list to rank, its history reaching up to the moment (so the sources are as stale
as they will be in service). Without a clock each of every user's newest moments is a window, whose sources know what
came before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from features.histories import Histories
from features.interactions import EventSettings, signed_weights
from features.runs import rank_in_run
from features.settings import Settings
from features.tables import Events, FloatArray, IntArray


class ExampleSettings(Settings):
    """How many lists the ranker learns from, and which."""

    windows: int = Field(default=4, ge=1, le=8)
    """Label windows, where there is a clock; each costs one more fit of all sources."""
    window_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the events in one window."""
    newest_moments: int = Field(default=2, ge=1)
    """Windows without a clock: every user's last moment, the moment before it, and so on, each from one more fit of all
    sources to what came before.
    """
    moments_per_user: int = Field(default=10, ge=1)
    """Lists of one user in one window, at most; without a clock it is one."""
    max_lists: int = Field(default=30_000, ge=1)
    """Lists in all, at most; drawn at random where there are more."""
    negatives_per_list: int = Field(default=150, ge=1)
    """Candidates without a label that the ranker sees of each training list, at most; drawn at random where there
    are more.
    """
    min_lists: int = Field(default=50, ge=1)
    """With fewer lists than this there is too little to learn from, and the sources' own order is used."""

    min_repeat_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the labelled moments that hold an item of the history from which on repeats are learned, by a ranker
    of their own.
    """
    max_repeat_lists: int = Field(default=10_000, ge=1)
    """Lists that ranker learns from, at most; its sources and windows are those of the other."""

    @model_validator(mode="after")
    def _leave_something(self) -> Self:
        if self.windows * self.window_share >= 1:
            raise ValueError(f"{self.windows} windows of {self.window_share} leave no events before them")
        return self


@dataclass(frozen=True)
class LabelWindow:
    """`known`: what sources may be fitted on. List q has history q of `histories` and the labels
    label_items[label_indptr[q]:label_indptr[q + 1]], ascending; `label_weights` (n_labels,) float32 are the weights of
    the strongest events that the user did to them in the moment; `users` (n_lists,) int64; `times` (n_lists,) float64
    is when its moment was, unix seconds or the user's own order. Where `repeats`, items of the history are labels too,
    and may be in the lists.
    """

    known: Events
    as_of: float
    histories: Histories
    users: npt.NDArray[np.int64]
    label_indptr: npt.NDArray[np.int64]
    label_items: npt.NDArray[np.int64]
    label_weights: npt.NDArray[np.float32]
    times: npt.NDArray[np.float64]
    repeats: bool = False

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_labels(self) -> npt.NDArray[np.int64]:
        """Labels of each list, (n_lists,)."""
        return np.diff(self.label_indptr)

    @property
    def num_with_repeat(self) -> int:
        """Lists with a label that is in their history."""
        lists = np.repeat(np.arange(len(self)), self.num_labels)
        seen, num_items = self.histories.seen, self.histories.num_items
        known = np.repeat(np.arange(len(self)), np.diff(seen.indptr)) * num_items + seen.item_rows
        return len(np.unique(lists[np.isin(lists * num_items + self.label_items, known)]))

    @cached_property
    def _truth(self) -> npt.NDArray[np.int64]:
        """The pairs of list and label as one number each, ascending."""
        lists = np.repeat(np.arange(len(self)), self.num_labels)
        return lists * self.histories.num_items + self.label_items

    def labels(self, query_rows: IntArray, item_rows: IntArray) -> npt.NDArray[np.float32]:
        """The weight of the pair where it is a label, else 0, (n_pairs,) float32."""
        out = np.zeros(len(query_rows), np.float32)
        if not len(self._truth):
            return out
        pairs = query_rows * self.histories.num_items + item_rows
        places = np.minimum(np.searchsorted(self._truth, pairs), len(self._truth) - 1)
        right = self._truth[places] == pairs
        out[right] = self.label_weights[places[right]]
        return out


@dataclass(frozen=True)
class _Moments:
    """Events ordered by (user, time, item) and the moments they form."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    user_starts: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    from_end: npt.NDArray[np.int64]


def label_windows(
    events: Events,
    num_items: int,
    settings: ExampleSettings,
    event_settings: EventSettings,
    seed: int,
    *,
    repeats: bool = False,
) -> list[LabelWindow]:
    """The label windows of `events`, newest first; an empty list where the data have no moment to learn from. With
    `repeats` the windows are the same, and what is taken again is a label too.
    """
    if not len(events):
        return []
    rng = np.random.default_rng(seed)
    weights = signed_weights(events, event_settings)
    moments = _moments(events)
    plans = (_clock_plans if events.has_clock else _order_plans)(events, moments, settings)
    max_lists = settings.max_repeat_lists if repeats else settings.max_lists
    windows = []
    for known, as_of, chosen in plans:
        sampled = _sample(chosen, moments.users, settings.moments_per_user, max_lists // len(plans), rng)
        window = _window(
            events, weights, moments, sampled, known, as_of, num_items, event_settings.history_limit, repeats
        )
        if len(window):
            windows.append(window)
    return windows


def _moments(events: Events) -> _Moments:
    order = np.lexsort((events.item_rows, events.times, events.user_rows))
    users, times = events.user_rows[order], events.times[order]
    new_user = np.ones(len(order), bool)
    new_user[1:] = np.diff(users) != 0
    new = new_user.copy()
    new[1:] |= np.diff(times) != 0
    starts = np.flatnonzero(new)
    stops = np.append(starts[1:], len(order))
    first_moment = np.flatnonzero(new_user[starts])
    counts = np.diff(np.append(first_moment, len(starts)))
    position = np.arange(len(starts)) - np.repeat(first_moment, counts)
    from_end = np.repeat(counts, counts) - 1 - position
    user_starts = np.repeat(starts[first_moment], counts)
    return _Moments(order, starts, stops, users[starts].astype(np.int64), user_starts, position, from_end)


def _clock_plans(
    events: Events, moments: _Moments, settings: ExampleSettings
) -> list[tuple[Events, float, npt.NDArray[np.int64]]]:
    """(known events, start, moments of the window) of each window, newest first."""
    times = events.times[moments.order[moments.starts]]
    edges = [float(np.quantile(events.times, 1 - settings.window_share * k)) for k in range(settings.windows + 1)]
    edges[0] = np.inf
    plans = []
    for stop, start in pairwise(edges):
        chosen = np.flatnonzero((times >= start) & (times < stop) & (moments.position > 0))
        known = events.before(start)
        if len(chosen) and len(known):
            plans.append((known, start, chosen))
    return plans


def _order_plans(
    events: Events, moments: _Moments, settings: ExampleSettings
) -> list[tuple[Events, float, npt.NDArray[np.int64]]]:
    """Every user's last moment is a window, the one before it another, and so on; a user's first moment is no label.
    What came before the moment is known.
    """
    plans = []
    for back in range(settings.newest_moments):
        is_label = (moments.from_end <= back) & (moments.position > 0)
        chosen = np.flatnonzero(is_label & (moments.from_end == back))
        if len(chosen):
            known = np.ones(len(events), bool)
            known[moments.order] = ~np.repeat(is_label, moments.stops - moments.starts)
            plans.append((events.select(known), np.nan, chosen))
    return plans


def _sample(
    chosen: npt.NDArray[np.int64], users: npt.NDArray[np.int64], per_user: int, limit: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """At most `per_user` moments of a user and `limit` in all, at random, in their old order."""
    shuffled = rng.permutation(chosen)
    by_user = shuffled[np.argsort(users[shuffled], kind="stable")]
    kept = by_user[rank_in_run(users[by_user]) < per_user]
    if len(kept) > limit:
        kept = rng.choice(kept, limit, replace=False)
    return np.sort(kept)


def _window(
    events: Events,
    weights: FloatArray,
    moments: _Moments,
    chosen: npt.NDArray[np.int64],
    known: Events,
    as_of: float,
    num_items: int,
    history_limit: int,
    repeats: bool,
) -> LabelWindow:
    """Histories and labels of the chosen moments; a moment without anything liked (and, without `repeats`, new) makes
    no list.
    """
    rows, orders, likes, labels, strengths, kept = [], [], [], [], [], []
    for moment in chosen:
        begin, start, stop = moments.user_starts[moment], moments.starts[moment], moments.stops[moment]
        past, now = moments.order[begin:start], moments.order[start:stop]
        wanted, strength = _wanted(events.item_rows[now], weights[now])
        if not repeats:
            new = ~np.isin(wanted, events.item_rows[past])
            wanted, strength = wanted[new], strength[new]
        if not len(wanted):
            continue
        past = past[-history_limit:]
        rows.append(events.item_rows[past])
        orders.append(events.times[past])
        likes.append(weights[past])
        labels.append(wanted)
        strengths.append(strength)
        kept.append(moment)
    times = events.times[moments.order[moments.starts[kept]]].astype(np.float64) if kept else np.empty(0)
    at = times if events.has_clock else np.full(len(kept), np.nan)
    histories = Histories.build(rows, orders, likes, at, num_items, np.full(len(kept), events.has_clock))
    label_indptr = np.cumsum([0, *(len(wanted) for wanted in labels)])
    label_items = np.concatenate([np.empty(0, np.int64), *labels])
    label_weights = np.concatenate([np.empty(0, np.float32), *strengths])
    return LabelWindow(
        known, as_of, histories, moments.users[kept], label_indptr, label_items, label_weights, times, repeats
    )


def _wanted(item_rows: IntArray, weights: FloatArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """What is liked in a moment's events: its items, ascending, and the largest weight of each."""
    liked = weights > 0
    items, place = np.unique(item_rows[liked], return_inverse=True)
    strongest = np.zeros(len(items), np.float32)
    np.maximum.at(strongest, place, weights[liked])
    return items.astype(np.int64), strongest
