"""Recommender: candidates -> features -> scores -> list. The one path that HTTP, batch and notebooks share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.builder import FeatureMatrix
from features.histories import Histories
from features.item_sets import ItemSets
from features.tables import AVAILABLE, TITLE, BoolArray
from features.weak_cache import cached_method
from ranking.base import Ranker
from ranking.by_score import ByScoreRanker
from recsys.errors import RequestError
from recsys.live_popularity import LivePopularity
from recsys.model import Chain, FittedModel
from recsys.request_history import HistoryReader, KnownHistory, StoreReader, Triple
from recsys.requests import HistoryEvent, Recommendation, RecommendedItem, Request
from recsys.retrieval.merge import Candidates
from recsys.retrieval.popularity import PopularitySource
from recsys.scoring import CHUNK, candidates_with_features

SCORE_DIGITS = 6


@dataclass(frozen=True)
class _History:
    """One request's history in rows: its newest events, all items seen, and the
    time the list is for.
    """

    events: Triple
    seen: npt.NDArray[np.int64]
    as_of: float
    unknown: int
    known_user: bool
    degraded: str = ""


@dataclass(frozen=True)
class RequestCandidates:
    """What there is to order for some requests: the items the sources found, and the features of every pair.
    `allowed` (n_items,) are the items that may be shown.
    """

    requests: list[Request]
    histories: list[_History]
    allowed: BoolArray
    found: Candidates
    matrix: FeatureMatrix


class Recommender:
    """Answers requests from a fitted model. It holds no state between requests, so it can be shared by threads.

    `clock` gives the time of a request that names none: the newest known event by default, `time.time` in service.
    `store` adds to the histories of the bundle what came since, and `popularity` what is taken now, for requests
    without a history and without a time of their own.
    """

    def __init__(
        self,
        model: FittedModel,
        clock: Callable[[], float] | None = None,
        store: StoreReader | None = None,
        popularity: LivePopularity | None = None,
    ) -> None:
        self.model = model
        self._popularity = popularity
        self._reader = HistoryReader(model, store)
        self._clock = clock or (lambda: model.trained_until + 1.0)
        self._ids = model.catalogue.items.ids
        self._id_order = model.catalogue.items.places
        self._titles = model.catalogue.frame[TITLE].array
        self._available: BoolArray = model.catalogue.frame[AVAILABLE].to_numpy(bool)
        self._mask = cached_method(self._compute_mask, maxsize=256)

    @classmethod
    def live(
        cls, model: FittedModel, store: StoreReader | None = None, popularity: LivePopularity | None = None
    ) -> Recommender:
        """A recommender for service: a request without a time is for now."""
        return cls(model, time.time, store, popularity)

    def close(self) -> None:
        """Give the connections of the event store back, where there is one."""
        self._reader.close()

    def recommend(self, request: Request) -> Recommendation:
        """The list for one request; RequestError names the parameter that can't be used."""
        return self.recommend_many([request])[0]

    def recommend_many(self, requests: Sequence[Request]) -> list[Recommendation]:
        """One answer a request, in their order; each the same as if it had been asked alone."""
        for request in requests:
            self._check(request)
        kinds = [(request.filters, self._excludes_seen(request)) for request in requests]
        answers: dict[int, Recommendation] = {}
        for (filters, _), same in groupby(sorted(range(len(requests)), key=lambda k: kinds[k]), key=lambda k: kinds[k]):
            numbers = list(same)
            for start in range(0, len(numbers), CHUNK):
                chunk = numbers[start : start + CHUNK]
                made = self.rank(self._prepare([requests[k] for k in chunk], self._mask(filters)))
                answers.update(zip(chunk, made, strict=True))
        return [answers[k] for k in range(len(requests))]

    def histories(self, requests: Sequence[Request]) -> Histories:
        """What the model gets to see of each request's user."""
        return self._build([self._history(request) for request in requests])

    def candidates(self, requests: Sequence[Request]) -> RequestCandidates:
        """What `rank` orders: found once, it can be ordered by several models. The requests, one or more, share their
        filters and whether the history is excluded.
        """
        for request in requests:
            self._check(request)
        kinds = {(request.filters, self._excludes_seen(request)) for request in requests}
        if len(kinds) != 1:
            raise ValueError(f"requests of {len(kinds)} different kinds (filters, exclude_seen) can't share candidates")
        return self._prepare(list(requests), self._mask(requests[0].filters))

    def rank(self, asked: RequestCandidates) -> list[Recommendation]:
        """One answer a request: `recommend_many(requests)` is `rank(candidates(requests))`."""
        requests, histories, found = asked.requests, asked.histories, asked.found
        empty = np.array([not len(h.events[0]) for h in histories])
        scores = self._scores(self.chain(requests[0]).ranker, asked.matrix, empty)
        item_rows, query_rows = found.pairs.item_rows, found.pairs.query_rows
        order = np.lexsort((self._id_order[item_rows], -scores, query_rows))
        bounds = np.searchsorted(query_rows[order], np.arange(len(requests) + 1))
        ranks, names = _source_ranks(found)
        return [
            self._list(
                requests[k], histories[k], found, scores, order[bounds[k] : bounds[k + 1]], ranks, names, asked.allowed
            )
            for k in range(len(requests))
        ]

    def explain(self, request: Request) -> pd.DataFrame:
        """One row an item of the request's list, best first: item_id, title, score, and each feature's share of the
        score (TreeSHAP, largest mean magnitude first). RequestError where no LambdaMART ranker answers the
        request.
        """
        ranker = self.chain(request).ranker
        answer = self.recommend(request)
        if not hasattr(ranker, "contributions") or answer.strategy != "ranked":
            raise RequestError(
                "user", f"the list was made by strategy {answer.strategy!r}, which has no feature contributions"
            )
        history = self._history(request)
        found, matrix = self._candidates([request], [history], self._mask(request.filters))
        shares = pd.DataFrame(ranker.contributions(matrix)[:, :-1], columns=list(matrix.names))
        shares.insert(0, "item_id", self._ids[found.pairs.item_rows])
        listed = pd.DataFrame([{"item_id": i.item_id, "title": i.title, "score": i.score} for i in answer.items])
        table = (
            listed.merge(shares, on="item_id", how="inner")
            if len(listed)
            else shares.iloc[:0].assign(title="", score=0.0)
        )
        order = table[list(matrix.names)].abs().mean().sort_values(ascending=False, kind="stable").index
        return table[["item_id", "title", "score", *order]]

    def kind_weight(self, kind: str) -> float:
        """What an event of this name counts for; 0 for those that are nothing a user did."""
        return 0.0 if kind in self.model.settings.events.ignored else self._reader.kind_weight(kind)

    def _excludes_seen(self, request: Request) -> bool:
        return self.model.settings.serve.exclude_seen if request.exclude_seen is None else request.exclude_seen

    def chain(self, request: Request) -> Chain:
        """What makes the request's list."""
        return self.model.chain(self._excludes_seen(request))

    def _prepare(self, requests: list[Request], allowed: BoolArray) -> RequestCandidates:
        histories = [self._history(request) for request in requests]
        return RequestCandidates(requests, histories, allowed, *self._candidates(requests, histories, allowed))

    def _scores(self, ranker: Ranker, matrix: FeatureMatrix, empty: BoolArray) -> npt.NDArray[np.float64]:
        """Rounded scores of all pairs; lists without a history go by popularity."""
        scores = ranker.score(matrix)
        if empty.any():
            pairs = empty[matrix.query_rows]
            chosen = matrix.select(pairs)
            scores[pairs] = ByScoreRanker((self.model.fallback.name,)).score(chosen)
        return np.round(scores, SCORE_DIGITS)

    def _candidates(
        self, requests: list[Request], histories: list[_History], allowed: BoolArray
    ) -> tuple[Candidates, FeatureMatrix]:
        built = self._build(histories)
        blocked = ItemSets.of([self._hidden(*asked) for asked in zip(requests, histories, strict=True)])
        per_source = self.model.settings.retrieval.per_source
        mask = None if allowed.all() else allowed
        chain = self.chain(requests[0])
        fallback = self._fallback(requests, histories)
        sources: tuple[Any, ...] = tuple(
            fallback if source.name == fallback.name else source for source in chain.sources
        )
        return candidates_with_features(sources, chain.features, built, per_source, blocked, mask)

    def _fallback(self, requests: list[Request], histories: list[_History]) -> PopularitySource:
        """What is popular: now, where all the requests are for now and have nothing else to go by."""
        asked = zip(requests, histories, strict=True)
        if self._popularity is None or any(r.at is not None or len(h.events[0]) for r, h in asked):
            return self.model.fallback
        return self._popularity.source

    def _list(
        self,
        request: Request,
        history: _History,
        found: Candidates,
        scores: npt.NDArray[np.float64],
        pairs: npt.NDArray[np.int64],
        ranks: npt.NDArray[np.float32],
        names: tuple[str, ...],
        allowed: BoolArray,
    ) -> Recommendation:
        strategy, reason = self._strategy(request, history)
        items = [
            self._item(int(found.pairs.item_rows[p]), rank, float(scores[p]), _offered(ranks[p], names))
            for rank, p in enumerate(pairs[: request.n], start=1)
        ]
        if len(items) < request.n:
            lowest = float(scores[pairs[-1]]) if len(pairs) else 0.0
            items += self._tail(request, history, found.pairs.item_rows[pairs], lowest, allowed)
        return Recommendation(
            request.request_id, request.user, strategy, reason, tuple(items), history.unknown, history.degraded
        )

    def _tail(
        self, request: Request, history: _History, listed: npt.NDArray[np.int64], lowest: float, allowed: BoolArray
    ) -> list[RecommendedItem]:
        """What popularity adds behind the last candidate, so that n items come back whenever n exist."""
        one = self._build([history])
        blocked = ItemSets.of([np.concatenate([self._hidden(request, history), listed])])
        top = self._fallback([request], [history]).scores(one)[""].top(request.n - len(listed), blocked, allowed)
        return [
            self._item(int(row), len(listed) + k, round(lowest - 1e-3 * k, SCORE_DIGITS), (self.model.fallback.name,))
            for k, row in enumerate(top.item_rows, start=1)
        ]

    def _item(self, row: int, rank: int, score: float, sources: tuple[str, ...]) -> RecommendedItem:
        return RecommendedItem(self._ids[row], rank, score, str(self._titles[row]), sources)

    def _strategy(self, request: Request, history: _History) -> tuple[str, str]:
        """Which path answers, and why where it is not the ranker's."""
        if len(history.events[0]):
            ranker = self.chain(request).ranker
            if ranker.kind == "lambdamart":
                return "ranked", ""
            learned = self.model.report if ranker is self.model.ranker else self.model.report["repeats"]
            return "by_score", str(learned.get("ranker_reason", "the settings say so"))
        if history.unknown:
            return "popular", f"none of the {history.unknown} items of the history is in the catalogue"
        if request.user is None or request.history is not None:
            return "popular", "a guest without a history"
        if history.known_user:
            return "popular", f"user {request.user!r} has no event before the time asked for"
        return "popular", f"user {request.user!r} has never been seen"

    def _check(self, request: Request) -> None:
        limit = self.model.settings.serve.max_n
        if not 1 <= request.n <= limit:
            raise RequestError("n", f"n must be between 1 and {limit} (setting serve.max_n), but is {request.n}")
        if request.at is not None and not np.isfinite(request.at):
            raise RequestError("at", f"at must be a time in unix seconds, but is {request.at}")

    def _history(self, request: Request) -> _History:
        """The request's own history or the stored one, then `recent`. What is not before the time of the list is not
        known; a request without a time is for the moment after its newest event, if that is later than the clock.
        """
        as_of = self._clock() if request.at is None else request.at
        if request.history is None:
            known = self._reader.read(request.user, as_of, strict=request.at is not None)
        else:
            events, unknown = self._own_history(request.history, as_of, strict=request.at is not None)
            known = KnownHistory(events, request.user is not None and request.user in self.model.users, unknown)
        events, unknown = known.events, known.unknown
        if request.recent:
            events, missing = self._with_recent(events, request.recent, as_of)
            unknown += missing
        if self._has_clock and len(events[1]) and events[1][-1] >= as_of:
            as_of = float(events[1][-1]) + 1.0
        limit = self.model.settings.events.history_limit
        newest = (events[0][-limit:], events[1][-limit:], events[2][-limit:])
        moment = as_of if self._has_clock else np.nan
        return _History(newest, events[0], moment, unknown, known.known_user, known.degraded)

    @property
    def _has_clock(self) -> bool:
        return self.model.histories.has_clock

    def _own_history(self, history: tuple[HistoryEvent, ...], as_of: float, *, strict: bool) -> tuple[Triple, int]:
        """Rows, orders and weights, oldest first, and how many items are unknown. Where the times are missing, the
        events are taken to have come a second apart up to the time of the list.
        """
        history = tuple(event for event in history if event.event not in self.model.settings.events.ignored)
        rows = self.model.catalogue.items.rows([event.item_id for event in history])
        stamps = [event.timestamp for event in history if event.timestamp is not None]
        if len(stamps) == len(history):
            orders = np.array(stamps, np.float64)
        else:
            orders = np.arange(len(history), dtype=np.float64) - len(history) + (as_of if self._has_clock else 0.0)
        weights = np.array([self._reader.kind_weight(event.event) for event in history], np.float32)
        known = rows >= 0
        usable = known & (orders < as_of) if strict and self._has_clock else known
        order = np.lexsort((rows[usable], orders[usable]))
        return (rows[usable][order], orders[usable][order], weights[usable][order]), int((~known).sum())

    def _with_recent(self, events: Triple, recent: tuple[str, ...], as_of: float) -> tuple[Triple, int]:
        """`recent` as moments of their own behind the newest event, a second apart, up to the time of the list if that
        leaves room for them.
        """
        rows = self.model.catalogue.items.rows(list(recent))
        known = rows[rows >= 0]
        newest = float(events[1][-1]) if len(events[1]) else -np.inf
        first = max(newest, as_of - len(known) - 1) if self._has_clock or not len(events[1]) else newest
        orders = first + 1.0 + np.arange(len(known))
        added = (known, orders, np.ones(len(known), np.float32))
        joined = tuple(np.concatenate([old, new]) for old, new in zip(events, added, strict=True))
        return (joined[0], joined[1], joined[2]), int(len(recent) - len(known))

    def _build(self, histories: list[_History]) -> Histories:
        rows, orders, weights = zip(*(h.events for h in histories), strict=True) if histories else ((), (), ())
        as_of = np.array([h.as_of for h in histories])
        clocked = np.full(len(histories), self._has_clock)
        return Histories.build(rows, orders, weights, as_of, len(self._ids), clocked)

    def _hidden(self, request: Request, history: _History) -> npt.NDArray[np.int64]:
        """What the list must not hold: the history (unless told otherwise) and what the request excludes."""
        named = self.model.catalogue.items.rows(list(request.exclude))
        seen = history.seen if self._excludes_seen(request) else history.seen[:0]
        return np.concatenate([seen, named[named >= 0]])

    def _compute_mask(self, filters: tuple[tuple[str, str], ...]) -> BoolArray:
        """(n_items,) bool: available, and for each filtered column one of its values matches."""
        mask = self._available.copy()
        for column in dict.fromkeys(name for name, _ in filters):
            values = {value for name, value in filters if name == column}
            mask &= self._matches(column, values)
        return mask

    def _matches(self, column: str, values: set[str]) -> BoolArray:
        frame = self.model.catalogue.frame
        if column not in frame:
            raise RequestError("filter", f"unknown column {column!r}; allowed are {', '.join(map(str, frame.columns))}")
        series = frame[column]
        if pd.api.types.is_bool_dtype(series):
            return series.isin([value.lower() in {"true", "1", "yes"} for value in values]).to_numpy(bool)
        if pd.api.types.is_numeric_dtype(series):
            return series.isin([_number(column, value) for value in values]).to_numpy(bool)
        matched = [not values.isdisjoint(v) if isinstance(v, tuple) else v in values for v in series]
        return np.array(matched, bool)


def _number(column: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise RequestError("filter", f"column {column!r} holds numbers, but the filter asks for {value!r}")
    return number


def _source_ranks(found: Candidates) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """(n_pairs, n_sources) ranks and the sources' names."""
    names = tuple(name.removesuffix(":rank") for name in found.columns if name.endswith(":rank"))
    return np.stack([found.columns[f"{name}:rank"] for name in names], axis=1), names


def _offered(ranks: npt.NDArray[np.float32], names: tuple[str, ...]) -> tuple[str, ...]:
    """The sources that offered the item, the one that ranks it highest first."""
    known = [(rank, k) for k, rank in enumerate(ranks.tolist()) if rank == rank]  # NaN is not itself
    return tuple(names[k] for _, k in sorted(known))
