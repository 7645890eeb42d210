"""A request that names a time is answered by what had happened before it, from a store that knows more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.tables import Dataset
from handmade import TRAINED_UNTIL, handmade_model
from ranking.by_score import ByScoreRanker
from recsys.follower import Follower
from recsys.live import LiveCounters
from recsys.live_items import ItemChange, ItemEditor
from recsys.live_popularity import LivePopularity, LiveView
from recsys.live_ranking import LiveRanking
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import Recommendation, Request
from recsys.settings import Settings
from recsys.splits import EvaluationTask, split
from recsys.stores.base import Event
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore
from recsys.streaming import streamed
from recsys.taken import HOUR, Happened, TakenColumns
from recsys.training import train

HOURS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 7.0, 23.5, 30.0])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    opened = SqlEventStore.open(str(tmp_path / "events.sqlite"), StoreSettings())
    yield opened
    opened.close()


def service(
    model: FittedModel, store: SqlEventStore, now: float, settings: StoreSettings | None = None
) -> tuple[Recommender, Follower]:
    """One that knows all that the store holds, at the time `now`."""
    reader = StoreReader(store, store.settings)
    popularity = LivePopularity.of(model, settings or store.settings)
    recommender = Recommender(model, lambda: now, reader, popularity)
    follower = Follower(store, reader, LiveCounters(recommender.kind_weight), [popularity], clock=lambda: now)
    follower.step()
    return recommender, follower


def listed(answer: Recommendation) -> list[tuple[str, float]]:
    return [(item.item_id, item.score) for item in answer.items]


@pytest.fixture(scope="module")
def task(tiny_dataset: Dataset) -> EvaluationTask:
    return split(tiny_dataset, "stream")


@pytest.fixture(scope="module")
def trained(task: EvaluationTask, tiny_settings: Settings) -> FittedModel:
    return train(task.train, tiny_settings)


@pytest.fixture
def full(store: SqlEventStore, task: EvaluationTask) -> SqlEventStore:
    """A store that holds everything which happened after the training."""
    events, data = task.later, task.train
    assert events is not None
    kinds = [events.kind_names[kind] for kind in events.kinds]
    rows = zip(events.user_rows, events.item_rows, events.times.tolist(), kinds, strict=True)
    store.append(
        [
            Event(data.users.ids[user], data.catalogue.items.ids[item], time, kind, event_id=str(number))
            for number, (user, item, time, kind) in sorted(enumerate(rows), key=lambda row: row[1][2])
        ]
    )
    return store


def test_lists_are_those_of_a_service_that_was_asked_then(
    trained: FittedModel, task: EvaluationTask, full: SqlEventStore
) -> None:
    """The task stream asks before it posts; here all is posted before anything is asked."""
    assert task.later is not None
    assert trained.ranker.kind == "lambdamart"
    then = streamed(trained, task, task.later)
    recommender, _ = service(trained, full, float(task.later.times.max()) + 1.0)
    asked = [dataclasses.replace(request, history=None) for request in task.requests]
    order = np.random.default_rng(0).permutation(len(asked)).tolist()
    answers = recommender.recommend_many([asked[k] for k in order])
    assert [listed(answer) for answer in answers] == [listed(then[k]) for k in order]
    apart = Recommender(trained).recommend_many(list(task.requests))
    assert [listed(answer) for answer in answers] != [listed(apart[k]) for k in order]


@pytest.fixture(scope="module")
def popular() -> FittedModel:
    """Popularity alone, which guests are shown."""
    model = handmade_model()
    return dataclasses.replace(model, sources=(model.fallback,), ranker=ByScoreRanker.of({model.fallback.name: 1.0}))


def rush(store: SqlEventStore, item: str, when: float) -> None:
    """A thousand users take it."""
    store.append([Event(f"u{k}", item, when, event_id=f"{item}-{k}") for k in range(1000)])


def guest(recommender: Recommender, at: float | None) -> str:
    """The first item that a guest is shown."""
    return recommender.recommend(Request(history=(), at=at, n=1)).items[0].item_id


def test_guests_see_what_was_popular_then(popular: FittedModel, store: SqlEventStore) -> None:
    for item, hours in {"i11": 2.0, "i10": 3.0, "i08": 40.0}.items():
        rush(store, item, TRAINED_UNTIL + hours * HOUR)
    recommender, _ = service(popular, store, TRAINED_UNTIL + 50 * HOUR)
    asked = (0.0, 2.0, 2.5, 3.0, 4.0, 30.0, 40.0, 41.0, 50.0, 90.0)
    found = {hours: guest(recommender, TRAINED_UNTIL + hours * HOUR) for hours in asked}
    assert found == {
        0.0: "i00", 2.0: "i00", 2.5: "i11", 3.0: "i11", 4.0: "i10", 30.0: "i00", 40.0: "i00", 41.0: "i08",
        50.0: "i00", 90.0: "i00",
    }  # fmt: skip
    assert guest(recommender, None) == "i00"


@pytest.mark.parametrize("live_ranking", [True, False])
def test_the_hours_before_the_end_of_the_training_are_known_as_they_were(
    popular: FittedModel, store: SqlEventStore, live_ranking: bool
) -> None:
    """A store that the model was trained on holds them too; before that time the model is all there is."""
    end = TRAINED_UNTIL
    rush(store, "i11", end - 5 * HOUR)
    settings = StoreSettings(live_ranking=live_ranking)
    then, _ = service(popular, store, end + HOUR, settings)
    assert guest(then, None) == "i11"
    assert guest(then, end - 2 * HOUR) == guest(then, end) == "i00"
    later, _ = service(popular, store, end + 72 * HOUR, settings)
    assert guest(later, end + HOUR) == ("i11" if live_ranking else "i00"), "without it, hours are all that is held"


def test_a_rush_of_long_ago_is_over_for_who_asks_for_a_time_to_come(popular: FittedModel, store: SqlEventStore) -> None:
    rush(store, "i11", TRAINED_UNTIL + HOUR)
    recommender, _ = service(popular, store, TRAINED_UNTIL + HOUR + 1)
    week = TRAINED_UNTIL + 7 * 24 * HOUR
    assert [guest(recommender, at) for at in (None, TRAINED_UNTIL + HOUR + 30, week)] == ["i11", "i11", "i00"]


def test_who_asks_while_it_is_told_of_what_came_later_sees_none_of_it(
    popular: FittedModel, store: SqlEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, found = TRAINED_UNTIL + 9 * HOUR, list[str]()
    store.append([Event("q", "i05", TRAINED_UNTIL + 1, event_id="q")])
    recommender, follower = service(popular, store, now)
    made = LiveRanking.signals_of

    def meanwhile(self: LiveRanking, *given: object) -> object:
        if not found:
            found.append(guest(recommender, now - 30.0))
        return made(self, *given)  # type: ignore[arg-type]

    rush(store, "i11", now - 20.0)
    follower.read()
    monkeypatch.setattr(LiveRanking, "signals_of", meanwhile)
    follower.publish()
    assert found == ["i00"] == [guest(recommender, now - 30.0)]
    assert guest(recommender, now - 10.0) == "i11"


def test_who_is_answered_while_it_is_told_is_answered_from_before(
    popular: FittedModel, store: SqlEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first news come between the two steps of answering several requests."""
    now = TRAINED_UNTIL + 9 * HOUR
    recommender, follower = service(popular, store, now)
    rush(store, "i11", TRAINED_UNTIL + 100)
    known = Recommender._known
    monkeypatch.setattr(Recommender, "_known", lambda self, *given: (follower.step(), known(self, *given))[1])
    follower._published_at = float("-inf")
    asked = [Request(history=(), at=TRAINED_UNTIL + seconds, n=1) for seconds in (200.0, 50.0)]
    assert [answer.items[0].item_id for answer in recommender.recommend_many(asked)] == ["i00", "i00"]
    assert [answer.items[0].item_id for answer in recommender.recommend_many(asked)] == ["i11", "i00"]


def test_what_comes_later_does_not_change_what_was(trained: FittedModel, store: SqlEventStore) -> None:
    start = trained.trained_until
    store.append([Event(f"a{k}", "space-13", start + 60.0 + k, event_id=f"a{k}") for k in range(50)])
    recommender, follower = service(trained, store, start + 9 * HOUR)
    asked = [Request(user="u000", at=start + 200.0, n=20), Request(history=(), at=start + 200.0, n=20)]
    before = recommender.recommend_many(asked)
    store.append([Event(f"b{k}", "garden-07", start + 200.0 + k, event_id=f"b{k}") for k in range(50)])
    now = Request(user="u000", n=20)
    without = recommender.recommend(now)
    follower.step()
    follower.publish()
    assert recommender.recommend_many(asked) == before
    assert recommender.recommend(now) != without


def test_now_is_answered_as_now(trained: FittedModel, store: SqlEventStore) -> None:
    start = trained.trained_until
    store.append([Event(f"a{k}", "space-13", start + 60.0, event_id=f"a{k}") for k in range(50)])
    recommender, _ = service(trained, store, start + 100.0)
    now, named = (recommender.candidates([Request(user="u000", at=at, n=20)]).matrix for at in (None, start + 100.0))
    np.testing.assert_array_equal(now.values, named.values)
    store.append([Event("b", "space-13", start + 60.0, event_id="b")])
    _, follower = service(trained, store, start + 100.0)
    view = viewed(trained, follower)
    assert view.moment(start + 100.0) == view.moment(start + 159.0) == view.moment(start + 61.0) == np.inf
    assert view.moment(None) == np.inf
    assert view.moment(start + 60.0) == start + 60.0
    assert view.moment(start + 59.7) == start + 59.0, "in whole seconds, for those who send their own clock"
    assert view.moment(start) == view.moment(0.0) == -np.inf
    assert view.moment(start + 9 * HOUR) == start + 9 * HOUR, "what is popular among guests becomes less"
    store.append([Event("c", "space-13", start + 5 * HOUR, event_id="c")])  # by a clock that is wrong
    follower.step()
    follower.publish()
    assert viewed(trained, follower).moment(start + 99.0) == start + 99.0


def viewed(model: FittedModel, follower: Follower) -> LiveView:
    popularity = LivePopularity.of(model, StoreSettings())
    follower.inform(popularity)
    return popularity.view


def test_a_changed_catalogue_knows_what_was_taken_before(store: SqlEventStore) -> None:
    model = handmade_model()
    store.append([Event("u", "new", TRAINED_UNTIL + 5.0, event_id="1"), Event("u", "i05", TRAINED_UNTIL + 9.0)])
    _, follower = service(model, store, TRAINED_UNTIL + 99.0)
    before = LivePopularity.of(model, store.settings)
    follower.inform(before)
    changed = ItemEditor(model, None).with_items(model, [ItemChange("new", {"title": ""})])
    after = follower.following(before, changed)
    state = after.view.at(after.view.moment(TRAINED_UNTIL + 7.0))
    assert state.signals is not None
    seen = state.signals.items.last_seen[[changed.catalogue.items.row("new"), changed.catalogue.items.row("i05")]]
    assert (seen > TRAINED_UNTIL).tolist() == [True, False]


def test_a_time_is_worked_out_once_for_all_who_ask_for_it(
    trained: FittedModel, store: SqlEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, made = trained.trained_until, list[float]()
    before = Happened.before
    monkeypatch.setattr(Happened, "before", lambda self, time: made.append(time) or before(self, time))
    store.append([Event("a", "space-13", start + 60.0 * k, event_id=f"{k}") for k in range(1, 6)])
    recommender, _ = service(trained, store, start + 9 * HOUR)
    times = [start + 60.0 * k + 1.0 for k in (3, 1, 2, 1, 3)]
    filters = ((("category", "space"),), (("category", "garden"),), ())
    # n is more than there are, so that popularity adds to every list
    asked = [Request(user="u000", at=at + 0.3, n=99, filters=wanted) for at in times for wanted in filters]
    answers = recommender.recommend_many(asked)
    assert sorted(made) == sorted(set(times))
    assert answers == [recommender.recommend(request) for request in asked]


def test_a_model_without_a_clock_knows_of_now_alone(popular: FittedModel, store: SqlEventStore) -> None:
    timeless = dataclasses.replace(popular, histories=dataclasses.replace(popular.histories, has_clock=False))
    now = TRAINED_UNTIL + 9 * HOUR
    rush(store, "i11", now - 100.0)
    recommender, _ = service(timeless, store, now)
    assert [guest(recommender, at) for at in (None, now, now + 1.0, now - 50.0)] == ["i11"] * 4
    assert guest(recommender, now - 2 * HOUR) == guest(recommender, now - 101.0) == "i00"


def test_guests_and_others_share_no_candidates(popular: FittedModel, store: SqlEventStore) -> None:
    rush(store, "i11", TRAINED_UNTIL + HOUR)
    recommender, _ = service(popular, store, TRAINED_UNTIL + HOUR + 1)
    with pytest.raises(ValueError, match="2 different kinds"):
        recommender.candidates([Request(user="ann"), Request(history=())])
    assert Recommender(popular).candidates([Request(user="ann"), Request(history=())]).requests


@given(st.lists(st.tuples(st.sampled_from("abc"), HOURS), max_size=20), HOURS)
def test_what_was_popular_is_what_was_counted_then(events: list[tuple[str, float]], ago: float) -> None:
    now = 500_000 * HOUR
    then = now - ago * HOUR
    all_of_them, only = TakenColumns(30), TakenColumns(30)
    for item, hours in sorted(events, key=lambda event: -event[1]):
        when = now - hours * HOUR
        for columns in (all_of_them, only) if when < then else (all_of_them,):
            columns.add("u", item, when, 1.0)
    found = Happened(all_of_them.taken(), now, 24.0).before(then)
    assert found.counts == Happened(only.taken(), then, 24.0).counts
    assert (found.now, len(found.taken)) == (then, len(only.taken()))
