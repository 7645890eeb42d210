"""Honest splits: what may be learned from, what is asked, and what the right answers are.

static  one list a user at the time T, the 90 % quantile of all event times; truth = the user's new items from T on.
live    the same T. One list before each moment at which a user acts (all events of one user with one timestamp are one
        moment: they have no order), from the history strictly before it; truth = the new items of that moment.
stream  the queries of live, of a service that reads the histories from its event store: all events from T on are posted
        in the order of time, each after what is asked at its time.
loo     leave-one-out by each user's own order; truth = the last new item, and training sees all but the last two.
repeat  the moments of live; truth = every liked item of the moment, those of the history too, and the lists may hold
        them. Without a clock: the last moment of each user, and training sees all but that.

New means not in the history, whatever the event. Every request carries its history and, but for repeat, leaves it out
of the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from features.interactions import EventSettings, event_weights
from features.runs import rank_in_run, run_lengths, run_starts
from features.tables import BoolArray, Clock, Dataset, Events, FloatArray
from recsys.errors import SettingsError
from recsys.requests import HistoryEvent, Request

TaskKind = Literal["static", "live", "loo", "repeat", "stream"]
TASKS: tuple[TaskKind, ...] = ("static", "live", "loo", "repeat", "stream")
LIST_LENGTH = 50
"""Length of the lists that are asked for: the longest cut-off of the metrics."""
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EvaluationTask:
    """`train` is all that a model may learn from. `requests`, `truths` (item ids) and `users` have one entry a query;
    `cold` are the items of the catalogue without a training event; `cut` is T in unix seconds, None without a
    clock and for loo; `later`, for stream alone, the events from then on."""

    kind: TaskKind
    train: Dataset
    requests: tuple[Request, ...]
    truths: tuple[frozenset[str], ...]
    users: tuple[str, ...]
    cold: frozenset[str]
    cut: float | None = None
    later: Events | None = None

    def __len__(self) -> int:
        return len(self.requests)


def split(
    dataset: Dataset,
    task: str | None = None,
    quantile: float = 0.9,
    per_user: int = 10,
    event_settings: EventSettings | None = None,
) -> EvaluationTask:
    """The task of that kind (None: live with a clock, else loo) over all of the data set's events.

    `quantile` sets T; a user has at most `per_user` queries in `live` and `repeat`, at the earliest moments;
    `event_settings` say what is liked in `repeat`. Queries are ordered by user row, then time. SettingsError where the
    kind is unknown or needs a clock that the data lack.
    """
    kind = _kind(dataset.events, task)
    if kind == "loo":
        return _leave_one_out(dataset)
    timeline = _Timeline.of(dataset.events, len(dataset.catalogue))
    if kind == "repeat":
        liked = np.asarray(event_weights(dataset.events, event_settings or EventSettings()) > 0)
        timeline = replace(timeline, is_truth=liked[timeline.rows])
        if not dataset.events.has_clock:
            return _last_moments(dataset, timeline)
    return _by_time(dataset, timeline, kind, quantile, per_user)


def without_test(dataset: Dataset, task: str | None = None, quantile: float = 0.9) -> Dataset:
    """The data set without what `split` of that kind judges on: what may be looked at to choose settings. Of loo, all
    but each user's last new item; of the others, what `split` trains on.
    """
    kind = _kind(dataset.events, task)
    if kind == "repeat" and not dataset.events.has_clock:
        return split(dataset, kind).train
    if kind != "loo":
        return dataset.with_events(dataset.events.before(_cut(dataset.events, quantile)))
    timeline = _Timeline.of(dataset.events, len(dataset.catalogue))
    return dataset.with_events(_but_the_newest(dataset.events, timeline.select(timeline.is_truth), 1))


def _cut(events: Events, quantile: float) -> float:
    return float(np.quantile(events.times, quantile)) if len(events) else 0.0


def _kind(events: Events, task: str | None) -> TaskKind:
    if task is None:
        return "live" if events.has_clock else "loo"
    for kind in TASKS:
        if kind == task:
            break
    else:
        raise SettingsError(f"task {task!r} is not known; allowed are {', '.join(TASKS)}")
    if kind in ("static", "live", "stream") and not events.has_clock:
        raise SettingsError(
            f"task {task!r} needs a clock, but the events have no timestamp, only each user's own order; use loo or "
            "repeat"
        )
    return kind


@dataclass(frozen=True)
class _Timeline:
    """Events by user, then time; events of one moment keep the order of the file. `rows` are their positions in the
    data set's events; `is_truth` marks what can be asked for: the first event of each (user, item), or, for repeat,
    every liked event."""

    rows: _Rows
    users: npt.NDArray[np.integer]
    items: npt.NDArray[np.integer]
    times: FloatArray
    is_truth: BoolArray

    @classmethod
    def of(cls, events: Events, num_items: int) -> Self:
        rows = np.lexsort((events.times, events.user_rows))
        users, items = events.user_rows[rows], events.item_rows[rows]
        is_truth = np.zeros(len(rows), dtype=bool)
        is_truth[np.unique(users.astype(np.int64) * num_items + items, return_index=True)[1]] = True
        return cls(rows, users, items, events.times[rows], is_truth)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, mask: BoolArray) -> _Timeline:
        return _Timeline(self.rows[mask], self.users[mask], self.items[mask], self.times[mask], self.is_truth[mask])

    @cached_property
    def user_starts(self) -> _Rows:
        """The position of each user's first event, one entry a user that has any."""
        return run_starts(self.users)

    @cached_property
    def moment_starts(self) -> _Rows:
        """The position of each moment's first event."""
        new = np.ones(len(self), dtype=bool)
        new[1:] = (np.diff(self.users) != 0) | (np.diff(self.times) != 0)
        return np.flatnonzero(new)

    @cached_property
    def own_start(self) -> _Rows:
        """For each event, the position of its user's first event."""
        return np.repeat(self.user_starts, run_lengths(self.users))

    def num_truths(self, starts: _Rows, stops: _Rows) -> _Rows:
        """How many events can be asked for in each range of positions."""
        running = np.concatenate([[0], np.cumsum(self.is_truth)])
        counts: _Rows = running[stops] - running[starts]
        return counts


@dataclass(frozen=True)
class _Queries:
    """For each query, positions in a timeline: its history is starts:stops, its truth what `is_truth` marks of
    stops:ends."""

    starts: _Rows
    stops: _Rows
    ends: _Rows
    at: FloatArray

    def select(self, mask: BoolArray) -> _Queries:
        return _Queries(self.starts[mask], self.stops[mask], self.ends[mask], self.at[mask])


def _by_time(dataset: Dataset, timeline: _Timeline, kind: TaskKind, quantile: float, per_user: int) -> EvaluationTask:
    events = dataset.events
    cut = _cut(events, quantile)
    queries = _at_the_cut(timeline, cut) if kind == "static" else _before_moments(timeline, cut)
    queries = queries.select((queries.stops > queries.starts) & (timeline.num_truths(queries.stops, queries.ends) > 0))
    if kind != "static":
        queries = queries.select(rank_in_run(queries.starts) < per_user)
    task = _task(kind, dataset, events.before(cut), timeline, queries, cut)
    return replace(task, later=events.select(np.asarray(events.times >= cut))) if kind == "stream" else task


def _at_the_cut(timeline: _Timeline, cut: float) -> _Queries:
    starts = timeline.user_starts
    ends = _stops(starts, len(timeline))
    passed = np.concatenate([[0], np.cumsum(timeline.times < cut)])
    stops = starts + passed[ends] - passed[starts]
    return _Queries(starts, stops, ends, np.full(len(starts), cut))


def _before_moments(timeline: _Timeline, cut: float) -> _Queries:
    stops = timeline.moment_starts
    ends = _stops(stops, len(timeline))
    queries = _Queries(timeline.own_start[stops], stops, ends, timeline.times[stops])
    return queries.select(np.asarray(queries.at >= cut))


def _last_moments(dataset: Dataset, timeline: _Timeline) -> EvaluationTask:
    """Each user's last moment, asked of those who have another before it; only the users' own orders are used."""
    starts, last = timeline.user_starts, timeline.moment_starts
    ends = _stops(starts, len(timeline))
    stops = last[np.searchsorted(last, ends) - 1]
    queries = _Queries(starts, stops, ends, np.full(len(starts), np.nan)).select(stops > starts)
    known = np.ones(len(timeline), bool)
    for stop, end in zip(queries.stops.tolist(), queries.ends.tolist(), strict=True):
        known[stop:end] = False
    train = np.zeros(len(timeline), bool)
    train[timeline.rows[known]] = True
    asked = queries.select(timeline.num_truths(queries.stops, queries.ends) > 0)
    return _task("repeat", dataset, dataset.events.select(train), timeline, asked, None)


def _leave_one_out(dataset: Dataset) -> EvaluationTask:
    """Each user's distinct items by first touch. Of data with a clock, too, only the order is used: users are cut at
    different times, so a clock shared between them would show the future of one in the past of another."""
    timeline = _Timeline.of(dataset.events, len(dataset.catalogue))
    timeline = timeline.select(timeline.is_truth)
    starts = timeline.user_starts
    ends = _stops(starts, len(timeline))
    queries = _Queries(starts, ends - 1, ends, np.full(len(starts), np.nan)).select(ends - starts >= 3)
    return _task("loo", dataset, _but_the_newest(dataset.events, timeline, 2), timeline, queries, None)


def _but_the_newest(events: Events, timeline: _Timeline, num_hidden: int) -> Events:
    """Each user's new items less the last `num_hidden` (one fewer of users with less than three), by their order."""
    place = rank_in_run(timeline.users)
    length = np.repeat(run_lengths(timeline.users), run_lengths(timeline.users))
    kept = np.flatnonzero(place < length - np.where(length >= 3, num_hidden, num_hidden - 1))
    kept = kept[np.argsort(place[kept], kind="stable")]
    return _reordered(events, timeline.rows[kept], place[kept].astype(np.float64), "sequence")


def _reordered(events: Events, rows: _Rows, times: FloatArray, clock: Clock) -> Events:
    extra = events.extra.iloc[rows].reset_index(drop=True) if len(events.extra) else events.extra
    return Events(
        events.user_rows[rows], events.item_rows[rows], events.kinds[rows], times, events.values[rows],
        events.kind_names, clock, extra,
    )  # fmt: skip


def _task(
    kind: TaskKind, dataset: Dataset, train: Events, timeline: _Timeline, queries: _Queries, cut: float | None
) -> EvaluationTask:
    ids = dataset.catalogue.items.ids
    has_events = np.zeros(len(ids), dtype=bool)
    has_events[train.item_rows] = True
    users = tuple(str(user) for user in dataset.users.ids[timeline.users[queries.starts]])
    histories = _histories(dataset, timeline, queries, with_times=kind != "loo")
    requests = tuple(
        Request(str(n), user, history, at=None if cut is None else at, n=LIST_LENGTH, exclude_seen=kind != "repeat")
        for n, (user, history, at) in enumerate(zip(users, histories, queries.at.tolist(), strict=True))
    )
    truths = tuple(_truths(dataset, timeline, queries))
    return EvaluationTask(kind, dataset.with_events(train), requests, truths, users, frozenset(ids[~has_events]), cut)


def _histories(
    dataset: Dataset, timeline: _Timeline, queries: _Queries, *, with_times: bool
) -> Iterator[tuple[HistoryEvent, ...]]:
    """One history a query. A user's queries share their events: histories of 1.5 million events then fit in memory."""
    ids, kind_names = dataset.catalogue.items.ids, dataset.events.kind_names
    for start, stops in groupby(
        zip(queries.starts.tolist(), queries.stops.tolist(), strict=True), key=lambda pair: pair[0]
    ):
        lengths = [stop - start for _, stop in stops]
        own = slice(start, start + lengths[-1])
        kinds = dataset.events.kinds[timeline.rows[own]].tolist()
        times = timeline.times[own].tolist() if with_times else [None] * len(kinds)
        items = ids[timeline.items[own]]
        made = [HistoryEvent(i, kind_names[k], t) for i, k, t in zip(items, kinds, times, strict=True)]
        yield from (tuple(made[:length]) for length in lengths)


def _truths(dataset: Dataset, timeline: _Timeline, queries: _Queries) -> Iterator[frozenset[str]]:
    ids = dataset.catalogue.items.ids
    for stop, end in zip(queries.stops.tolist(), queries.ends.tolist(), strict=True):
        yield frozenset(ids[timeline.items[stop:end][timeline.is_truth[stop:end]]])


def _stops(starts: _Rows, length: int) -> _Rows:
    """The position after the last one of each run."""
    stops: _Rows = np.append(starts[1:], length)[: len(starts)]
    return stops
