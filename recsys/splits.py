"""Honest splits: what may be learned from, what is asked, and what the right answers are.

static  one list a user at the time T, the 90 % quantile of the event times; truth = the new items liked from T on.
live    the same T. One list before each moment at which a user acts (all events of one user with one timestamp are one
        moment: they have no order), from the history strictly before it; truth = the new items liked in that moment.
stream  the queries of live, of a service that reads the histories from its event store: all events from T on are posted
        in the order of time, each after what is asked at its time.
loo     leave-one-out by each user's own order; truth = the last item that was liked when it was new, and training sees
        what came before the last two of these.
repeat  the moments of live; truth = every liked item of the moment, those of the history too, and the lists may hold
        them. Without a clock: the last moment of each user, and training sees all but that.

Liked is what training takes for a sign of interest: an event whose type weighs more than 0. New is what the product
may still show: not in the history, whatever the event. So an item that was dismissed and is bought at a later moment is
no truth, as no list could hold it; where the list comes before both, as in static, or both are of one moment, it is
one. Events of ignored types (see `EventSettings`) are nothing a user did: as in training and at answering, it is as if
they were not there, but that the service of stream is told of them.

Every request carries its history and, but for repeat, leaves it out of the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import groupby
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from features.interactions import EventSettings, acted_on, event_weights
from features.runs import rank_in_run, run_lengths, run_starts
from features.tables import BoolArray, Clock, Dataset, Events, FloatArray
from recsys.errors import SettingsError
from recsys.requests import HistoryEvent, Request

TaskKind = Literal["static", "live", "loo", "repeat", "stream"]
TASKS: tuple[TaskKind, ...] = ("static", "live", "loo", "repeat", "stream")
NOT_STUDIED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "repeat": (("ablations",), "ablations are of the ranker that leaves out the history"),
    "stream": (("ablations", "robustness", "learning_curve"), "studies ask without the events that a stream tells of"),
}
"""Of tasks that have not all studies: those that they lack, and why."""
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
    `event_settings` say what is liked and what is ignored. Queries are ordered by user row, then time. SettingsError
    where the kind is unknown or needs a clock that the data lack.
    """
    kind, event_settings = _kind(dataset.events, task), event_settings or EventSettings()
    acted = acted_on(dataset, event_settings)
    if kind == "loo":
        return _leave_one_out(acted, event_settings)
    if kind == "repeat" and not acted.events.has_clock:
        return _last_moments(acted, event_settings)
    cut = _cut(acted.events, quantile)
    made = _by_time(acted, kind, cut, per_user, event_settings)
    later = dataset.events.select(np.asarray(dataset.events.times >= cut))
    return replace(made, later=later) if kind == "stream" else made


def without_test(
    dataset: Dataset,
    task: str | None = None,
    quantile: float = 0.9,
    event_settings: EventSettings | None = None,
) -> Dataset:
    """The data set without what `split` of that kind, with the same `event_settings`, judges on: what may be looked at
    to choose settings. Of loo, what came before each user's truth; of the others, what `split` trains on.
    """
    kind, event_settings = _kind(dataset.events, task), event_settings or EventSettings()
    dataset = acted_on(dataset, event_settings)
    if kind == "repeat" and not dataset.events.has_clock:
        return split(dataset, kind, event_settings=event_settings).train
    if kind != "loo":
        return dataset.with_events(dataset.events.before(_cut(dataset.events, quantile)))
    return dataset.with_events(_but_the_newest(dataset.events, _first_touches(dataset, event_settings), 1))


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
    data set's events; `is_new` marks one event of each (user, item): the first, or a liked one of the same moment;
    `is_truth` what can be asked for: what is new and liked, or, for repeat, all that is liked."""

    rows: _Rows
    users: npt.NDArray[np.integer]
    items: npt.NDArray[np.integer]
    times: FloatArray
    is_new: BoolArray
    is_truth: BoolArray

    @classmethod
    def of(
        cls,
        events: Events,
        num_items: int,
        settings: EventSettings,
        *,
        together_from: float = np.inf,
        repeats: bool = False,
    ) -> Self:
        """What happens from `together_from` on is asked for at once, so that none of it comes before the rest; where
        `repeats`, what is liked can be asked for again.
        """
        rows = np.lexsort((events.times, events.user_rows))
        users, items, times = events.user_rows[rows], events.item_rows[rows], events.times[rows]
        is_liked = np.asarray(event_weights(events, settings)[rows] > 0)
        pairs = users.astype(np.int64) * num_items + items
        order = np.lexsort((~is_liked, np.minimum(times, together_from), pairs))
        is_new = np.zeros(len(rows), dtype=bool)
        is_new[order[run_starts(pairs[order])]] = True
        return cls(rows, users, items, times, is_new, is_liked if repeats else is_liked & is_new)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, mask: BoolArray) -> _Timeline:
        return _Timeline(*(getattr(self, own.name)[mask] for own in fields(self)))

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


def _by_time(dataset: Dataset, kind: TaskKind, cut: float, per_user: int, settings: EventSettings) -> EvaluationTask:
    events, together_from = dataset.events, cut if kind == "static" else np.inf
    timeline = _Timeline.of(
        events, len(dataset.catalogue), settings, together_from=together_from, repeats=kind == "repeat"
    )
    queries = _at_the_cut(timeline, cut) if kind == "static" else _before_moments(timeline, cut)
    queries = queries.select((queries.stops > queries.starts) & (timeline.num_truths(queries.stops, queries.ends) > 0))
    if kind != "static":
        queries = queries.select(rank_in_run(queries.starts) < per_user)
    return _task(kind, dataset, events.before(cut), timeline, queries, cut)


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


def _last_moments(dataset: Dataset, settings: EventSettings) -> EvaluationTask:
    """Each user's last moment, asked of those who have another before it; only the users' own orders are used."""
    timeline = _Timeline.of(dataset.events, len(dataset.catalogue), settings, repeats=True)
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


def _leave_one_out(dataset: Dataset, settings: EventSettings) -> EvaluationTask:
    """Each user's last truth, asked of those who have three."""
    timeline = _first_touches(dataset, settings)
    starts = timeline.user_starts
    ends = _stops(starts, len(timeline))
    num_truths = timeline.num_truths(starts, ends)
    enough = num_truths >= 3
    last = np.flatnonzero(timeline.is_truth)[np.cumsum(num_truths)[enough] - 1]
    queries = _Queries(starts[enough], last, ends[enough], np.full(len(last), np.nan))
    return _task("loo", dataset, _but_the_newest(dataset.events, timeline, 2), timeline, queries, None)


def _first_touches(dataset: Dataset, settings: EventSettings) -> _Timeline:
    """Each user's distinct items by first touch. Of data with a clock, too, only the order is used: users are cut at
    different times, so a clock shared between them would show the future of one in the past of another."""
    timeline = _Timeline.of(dataset.events, len(dataset.catalogue), settings)
    return timeline.select(timeline.is_new)


def _but_the_newest(events: Events, timeline: _Timeline, num_hidden: int) -> Events:
    """What came before each user's last `num_hidden` truths (one fewer of users with less than three), by its order."""
    place, lengths = rank_in_run(timeline.users), run_lengths(timeline.users)
    starts = timeline.own_start
    so_far = timeline.num_truths(starts, np.arange(len(timeline)) + 1)
    of_user = timeline.num_truths(starts, starts + np.repeat(lengths, lengths))
    known = np.maximum(of_user - np.where(of_user >= 3, num_hidden, num_hidden - 1), 0)
    kept = np.flatnonzero(so_far <= known)
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
