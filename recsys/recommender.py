"""Recommender: candidates -> features -> scores -> list. The one path that HTTP, batch and notebooks share."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from features.builder import FeatureMatrix
from features.histories import Histories
from features.item_sets import ItemSets
from features.tables import TITLE, BoolArray
from ranking.base import ForestRanker, Ranker
from ranking.by_score import ByScoreRanker
from recsys.asked_history import AskedHistories, AskedHistory
from recsys.attributes import Attributes
from recsys.errors import RequestError
from recsys.filters import AllOf, Filter, Not, combined
from recsys.live_popularity import Consequences, LivePopularity, LiveState, LiveView
from recsys.model import Chain, FittedModel
from recsys.ordered import Entry, Ordered, source_ranks
from recsys.request_history import HistoryReader, StoreReader
from recsys.requests import Recommendation, RecommendedItem, Request
from recsys.retrieval.merge import Candidates
from recsys.retrieval.popularity import PopularitySource
from recsys.rules import NO_RULES, Rule, Rules
from recsys.scoring import CHUNK, candidates_with_features
from recsys.shaping import Shape, placed
from recsys.stage_clock import Observer, StageClock, nobody
from recsys.usable_rules import UsableRules
from recsys.wishes import shape_of

SCORE_DIGITS = 6
PROPENSITY_DIGITS = 9
_Kind = tuple[float, str, tuple[str, ...], bool, bool, tuple[str, ...]]


@dataclass(frozen=True)
class RequestCandidates:
    """What there is to order for some requests: the items the sources found, and the features of every pair.
    `allowed` (n_items,) are the items that may be shown, `rules` those in force when the items were found, and `live`
    is what had happened since the training.
    """

    requests: list[Request]
    histories: list[AskedHistory]
    allowed: BoolArray
    rules: Rules
    live: LiveState
    found: Candidates
    matrix: FeatureMatrix


class Recommender:
    """Answers requests from a fitted model. It holds no state between requests, so it can be shared by threads.

    `clock` gives the time of a request that names none: the newest known event by default, `time.time` in service.
    `rules` gives those to apply now, `observe` is told what each stage took (`recsys.stage_clock`). `store` adds to the
    histories of the bundle what came since, and `popularity` what is taken now, or was before the time that a request
    names. `id_order` (n_items,) is the order of the ids, by which ties are broken. `attributes` are the catalogue's,
    where they are at hand.
    """

    def __init__(
        self,
        model: FittedModel,
        clock: Callable[[], float] | None = None,
        store: StoreReader | None = None,
        popularity: LivePopularity | None = None,
        rules: Callable[[], Rules] = lambda: NO_RULES,
        observe: Observer = nobody,
        attributes: Attributes | None = None,
    ) -> None:
        self.model = model
        self.attributes = attributes or Attributes(model.catalogue)
        self._rules, self._observe = UsableRules(rules, self.attributes), observe
        self._popularity = popularity or LivePopularity(Consequences(model.fallback, model.catalogue.items, 0.0))
        self._reader = HistoryReader(model, store)
        self._histories = AskedHistories(model, self._reader)
        self._clock = clock or (lambda: model.trained_until + 1.0)
        self._ids = model.catalogue.items.ids
        self.id_order = model.catalogue.items.places
        self._titles = pa.array(model.catalogue.frame[TITLE])

    @classmethod
    def live(
        cls,
        model: FittedModel,
        store: StoreReader | None = None,
        popularity: LivePopularity | None = None,
        rules: Callable[[], Rules] = lambda: NO_RULES,
        observe: Observer = nobody,
        attributes: Attributes | None = None,
    ) -> Recommender:
        """A recommender for service: a request without a time is for now."""
        return cls(model, time.time, store, popularity, rules, observe, attributes)

    def warm_up(self) -> None:
        """Make one list with each ranker, which is in no figure, so that what is made at first use is there for the
        next.
        """
        if len(self._ids):
            quiet = copy.copy(self)
            quiet._observe = nobody  # noqa: SLF001  (it is a copy of this one)
            for exclude_seen in (True, False) if self.model.repeats is not None else (True,):
                quiet.recommend(Request(history=(), recent=(str(self._ids[0]),), n=1, exclude_seen=exclude_seen))

    def close(self) -> None:
        """Give the connections of the event store back, where there is one."""
        self._reader.close()

    def problems_of(self, rules: Rules) -> list[str]:
        """What is wrong with the rules over this catalogue, such as a column that it lacks; [] where nothing is."""
        return self._rules.problems_of(rules)

    def recommend(self, request: Request) -> Recommendation:
        """The list for one request; RequestError names the parameter that can't be used."""
        return self.recommend_many([request])[0]

    def recommend_many(self, requests: Sequence[Request]) -> list[Recommendation]:
        """One answer a request, in their order; each the same as if it had been asked alone."""
        rules, view = self._rules.now(), self._popularity.view
        for request in requests:
            self._check(request)
        kinds = [self._kind(request, rules, view) for request in requests]
        answers: dict[int, Recommendation] = {}
        for (moment, *_), same in groupby(sorted(range(len(requests)), key=kinds.__getitem__), key=kinds.__getitem__):
            numbers, live = list(same), view.at(moment)
            for start in range(0, len(numbers), CHUNK):
                chunk = numbers[start : start + CHUNK]
                allowed, known = self._known([requests[k] for k in chunk], rules)
                histories = dict(zip(chunk, known, strict=True))
                for part in _by_popularity(histories) if moment > -np.inf else (chunk,):
                    asked, of_part = [requests[k] for k in part], [histories[k] for k in part]
                    found = self._prepare(asked, of_part, allowed, rules, live)
                    answers.update(zip(part, self.rank(found), strict=True))
        return [answers[k] for k in range(len(requests))]

    def items_of(
        self, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], sources: Sequence[tuple[str, ...]]
    ) -> tuple[RecommendedItem, ...]:
        """A list made elsewhere: item rows, best first, their scores and what offered them."""
        return self._items([Entry(*given) for given in zip(rows.tolist(), scores.tolist(), sources, strict=True)])

    def histories(self, requests: Sequence[Request]) -> Histories:
        """What the model gets to see of each request's user."""
        return self._histories.built(self._asked(requests))

    def candidates(self, requests: Sequence[Request]) -> RequestCandidates:
        """What `rank` orders: found once, it can be ordered by several models. The requests, one or more, share their
        filters, `among`, whether the history is excluded and, in service, their time, and whether they have a history.
        """
        rules, view = self._rules.now(), self._popularity.view
        for request in requests:
            self._check(request)
        kinds = {self._kind(request, rules, view) for request in requests}
        (moment, *_), *_ = kinds
        allowed, histories = self._known(requests, rules)
        guests = {not len(history.events[0]) for history in histories} if moment > -np.inf else {False}
        if len(kinds) * len(guests) != 1:
            what = "filters, among, exclude_seen, at, guests and others"
            raise ValueError(f"requests of {len(kinds) * len(guests)} different kinds ({what}) can't share candidates")
        return self._prepare(list(requests), histories, allowed, rules, view.at(moment))

    def rank(self, asked: RequestCandidates) -> list[Recommendation]:
        """One answer a request: `recommend_many(requests)` is `rank(candidates(requests))`."""
        requests, histories, found = asked.requests, asked.histories, asked.found
        clock = StageClock(self._observe)
        empty = np.array([not len(h.events[0]) for h in histories])
        scores = self._scores(self.chain(requests[0]).ranker, asked.matrix, empty)
        clock.lap("ranker")
        item_rows, query_rows = found.pairs.item_rows, found.pairs.query_rows
        order = np.lexsort((self.id_order[item_rows], -scores, query_rows))
        bounds = np.searchsorted(query_rows[order], np.arange(len(requests) + 1))
        ranks, names = source_ranks(found)
        answers = []
        for k, request in enumerate(requests):
            pairs = order[bounds[k] : bounds[k + 1]]
            listed = Ordered(pairs, item_rows[pairs], scores[pairs], ranks, names)
            answers.append(self._list(request, histories[k], listed, asked))
        clock.lap("shaping")
        return answers

    def explain(self, request: Request) -> pd.DataFrame:
        """One row an item of the request's list, best first: item_id, title, score, and each feature's share of the
        score (TreeSHAP, largest mean magnitude first). RequestError where no LambdaMART ranker answers the
        request.
        """
        ranker = self.chain(request).ranker
        asked = self.candidates([request])
        answer = self.rank(asked)[0]
        if not isinstance(ranker, ForestRanker) or answer.strategy != "ranked":
            raise RequestError(
                "user", f"the list was made by strategy {answer.strategy!r}, which has no feature contributions"
            )
        found, matrix = asked.found, asked.matrix
        shares = pd.DataFrame(ranker.contributions(matrix)[:, :-1], columns=list(ranker.names))
        shares.insert(0, "item_id", self._ids[found.pairs.item_rows])
        listed = pd.DataFrame([{"item_id": i.item_id, "title": i.title, "score": i.score} for i in answer.items])
        table = (
            listed.merge(shares, on="item_id", how="inner")
            if len(listed)
            else shares.iloc[:0].assign(title="", score=0.0)
        )
        order = table[list(ranker.names)].abs().mean().sort_values(ascending=False, kind="stable").index
        return table[["item_id", "title", "score", *order]]

    def kind_weight(self, kind: str) -> float:
        """What an event of this name counts for; 0 for those that are nothing a user did, or show no interest."""
        ignored = kind in self.model.settings.events.ignored
        return 0.0 if ignored else max(0.0, self._reader.kind_weight(kind))

    def _excludes_seen(self, request: Request) -> bool:
        return self.model.settings.serve.exclude_seen if request.exclude_seen is None else request.exclude_seen

    def chain(self, request: Request) -> Chain:
        """What makes the request's list."""
        return self.model.chain(self._excludes_seen(request))

    def _kind(self, request: Request, rules: Rules, view: LiveView) -> _Kind:
        """Requests of one kind are answered together; sortable, by their time first, as that may have to be worked
        out.
        """
        hiding = tuple(rule.name for rule in self._hiding(request, rules))
        named = request.among is not None
        wanted, among = str(combined(request.filters)), request.among or ()
        return view.moment(request.at), wanted, hiding, self._excludes_seen(request), named, among

    def _hiding(self, request: Request, rules: Rules) -> list[Rule]:
        """The rules that keep items out of the request's list."""
        return [rule for rule in rules.at(self._time(request)) if rule.action == "exclude"] if rules.rules else []

    def _expression(self, request: Request, rules: Rules) -> Filter:
        """What must hold of every item shown: the request's filters, and no rule excludes it."""
        wanted = combined(request.filters)
        hidden = [Not(rule.expression) for rule in self._hiding(request, rules)]
        return AllOf((wanted, *hidden)) if hidden else wanted

    def _time(self, request: Request) -> float:
        return self._clock() if request.at is None else request.at

    def allowed(self, request: Request) -> BoolArray:
        """(n_items,) what may be listed: available, let through by the filters, excluded by no rule in force."""
        return self._allowed(request, self._rules.now())

    def _allowed(self, request: Request, rules: Rules) -> BoolArray:
        """(n_items,) what may be listed."""
        mask = self.attributes.mask(self._expression(request, rules))
        if request.among is None:
            return mask
        named = self.model.catalogue.items.rows(list(request.among))
        among = np.zeros(len(mask), bool)
        among[named[named >= 0]] = True
        return mask & among

    def _known(self, requests: Sequence[Request], rules: Rules) -> tuple[BoolArray, list[AskedHistory]]:
        """What may be listed for requests of one kind, and what is known of their users."""
        clock = StageClock(self._observe)
        allowed, histories = self._allowed(requests[0], rules), self._asked(requests)
        clock.lap("history")
        return allowed, histories

    def _prepare(
        self, requests: list[Request], histories: list[AskedHistory], allowed: BoolArray, rules: Rules, live: LiveState
    ) -> RequestCandidates:
        found, matrix = self._candidates(requests, histories, allowed, live)
        return RequestCandidates(requests, histories, allowed, rules, live, found, matrix)

    def _asked(self, requests: Sequence[Request]) -> list[AskedHistory]:
        return [self._histories.of(request, self._time(request)) for request in requests]

    def _scores(self, ranker: Ranker, matrix: FeatureMatrix, empty: BoolArray) -> npt.NDArray[np.float64]:
        """Rounded scores of all pairs; lists without a history go by popularity."""
        scores = ranker.score(matrix)
        if empty.any():
            pairs = empty[matrix.query_rows]
            chosen = matrix.select(pairs)
            scores[pairs] = ByScoreRanker.of({self.model.fallback.name: 1.0}).score(chosen)
        return np.round(scores, SCORE_DIGITS)

    def _candidates(
        self, requests: list[Request], histories: list[AskedHistory], allowed: BoolArray, live: LiveState
    ) -> tuple[Candidates, FeatureMatrix]:
        built = self._histories.built(histories)
        blocked = ItemSets.of([self._hidden(*asked) for asked in zip(requests, histories, strict=True)])
        per_source = max(self.model.settings.retrieval.per_source, len(requests[0].among or ()))
        mask = None if allowed.all() else allowed
        chain = self.chain(requests[0])
        signals, fallback = live.signals, _fallback(live, self.model, histories)
        instead = {**(signals.sources if signals is not None else {}), fallback.name: fallback}
        sources: tuple[Any, ...] = tuple(instead.get(source.name, source) for source in chain.sources)
        features = chain.features.with_items(signals.items) if signals is not None else chain.features
        return candidates_with_features(sources, features, built, per_source, blocked, mask, self._observe)

    def _list(
        self, request: Request, history: AskedHistory, listed: Ordered, asked: RequestCandidates
    ) -> Recommendation:
        strategy, reason = self._strategy(request, history)
        hidden = self._hidden(request, history)
        rules = asked.rules.at(self._time(request)) if asked.rules.rules else ()
        shape = shape_of(request, self.model.settings.serve, rules, self.model.catalogue.items, asked.allowed, hidden)
        if shape.is_plain:
            items = listed.entries(range(min(request.n, len(listed.pairs))))
            if len(items) < request.n:
                items += self._tail(request, history, hidden, listed, asked)
        else:
            items = self._shaped(request, history, hidden, listed, asked, shape)
        return Recommendation(
            request.request_id, request.user, strategy, reason, self._items(items), history.unknown, history.degraded
        )

    def _shaped(
        self,
        request: Request,
        history: AskedHistory,
        hidden: npt.NDArray[np.int64],
        listed: Ordered,
        asked: RequestCandidates,
        shape: Shape,
    ) -> list[Entry]:
        """The list as `recsys.shaping` makes it; the scores stay the ranker's."""
        made = placed(
            listed.item_rows, request.n, shape, self.attributes, self.model.features.pairs.embeddings,
            lambda: self._popular(history, hidden, listed, len(self._ids), asked), request.request_id,
        )  # fmt: skip
        candidates = iter(listed.entries([item.place for item in made if item.place is not None]))
        others = iter(self._others([item.item_row for item in made if item.place is None], listed.lowest))
        entries = [next(others if item.place is None else candidates) for item in made]
        if shape.exploration.kind == "none":
            return entries
        propensities = [round(item.propensity, PROPENSITY_DIGITS) for item in made]
        return [entry._replace(propensity=own) for entry, own in zip(entries, propensities, strict=True)]

    def _others(self, item_rows: Iterable[int], lowest: float) -> list[Entry]:
        """What popularity adds: below the last candidate's score, in this order."""
        return [
            Entry(int(row), round(lowest - 1e-3 * number, SCORE_DIGITS), (self.model.fallback.name,))
            for number, row in enumerate(item_rows, start=1)
        ]

    def _tail(
        self,
        request: Request,
        history: AskedHistory,
        hidden: npt.NDArray[np.int64],
        listed: Ordered,
        asked: RequestCandidates,
    ) -> list[Entry]:
        """What popularity adds behind the last candidate, so that n items come back whenever n exist."""
        wanted = request.n - len(listed.pairs)
        rows = self._popular(history, hidden, listed, wanted, asked)
        return self._others(rows.tolist(), listed.lowest)

    def _popular(
        self,
        history: AskedHistory,
        hidden: npt.NDArray[np.int64],
        listed: Ordered,
        n: int,
        asked: RequestCandidates,
    ) -> npt.NDArray[np.int64]:
        """The n most popular items that are no candidates."""
        blocked = ItemSets.of([np.concatenate([hidden, listed.item_rows])])
        source = _fallback(asked.live, self.model, [history])
        return source.scores(self._histories.built([history]))[""].top(n, blocked, asked.allowed).item_rows

    def _items(self, entries: Sequence[Entry]) -> tuple[RecommendedItem, ...]:
        return tuple(
            RecommendedItem(self._ids[row], rank, score, self._titles[row].as_py(), sources, propensity)
            for rank, (row, score, sources, propensity) in enumerate(entries, start=1)
        )

    def _strategy(self, request: Request, history: AskedHistory) -> tuple[str, str]:
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
        if request.diversity is not None and not 0 <= request.diversity <= 1:
            raise RequestError("diversity", f"diversity must be between 0 and 1, but is {request.diversity}")
        for cap in request.caps or ():
            self.attributes.values(cap.column, "cap")

    def _hidden(self, request: Request, history: AskedHistory) -> npt.NDArray[np.int64]:
        """What the list must not hold: the history (unless told otherwise), what the user has dismissed (unless it is
        named to be ordered), and what the request excludes.
        """
        named = self.model.catalogue.items.rows(list(request.exclude))
        unwanted = history.dismissed if request.among is None else history.dismissed[:0]
        seen = history.seen if self._excludes_seen(request) else unwanted
        return np.concatenate([seen, named[named >= 0]])


def _fallback(live: LiveState, model: FittedModel, histories: Sequence[AskedHistory]) -> PopularitySource:
    """What is popular: in those hours, where the requests have nothing else to go by."""
    if not any(len(history.events[0]) for history in histories):
        return live.source
    return model.fallback if live.signals is None else live.signals.popularity


def _by_popularity(histories: Mapping[int, AskedHistory]) -> Iterator[list[int]]:
    """The numbers of those with and of those without a history apart: the one go by what is popular since the training,
    the others by what is in these hours.
    """
    for guests in (False, True):
        if same := [number for number, history in histories.items() if (not len(history.events[0])) == guests]:
            yield same
