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
from recsys.live_popularity import LivePopularity
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


def service(model: FittedModel, store: SqlEventStore, now: float) -> tuple[Recommender, Follower]:
    """One that knows all that the store holds, at the time `now`."""
    reader = StoreReader(store, store.settings)
    popularity = LivePopularity.of(model, store.settings)
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


def test_guests_see_what_was_popular_then(store: SqlEventStore) -> None:
    model = handmade_model()
    popular = dataclasses.replace(model, sources=(model.fallback,), ranker=ByScoreRanker.of({model.fallback.name: 1.0}))
    taken = {"i11": 2.0, "i10": 3.0, "i08": 40.0}
    for item, hours in taken.items():
        when = TRAINED_UNTIL + hours * HOUR
        store.append([Event(f"u{k}", item, when, event_id=f"{item}-{k}") for k in range(1000)])
    recommender, _ = service(popular, store, TRAINED_UNTIL + 50 * HOUR)

    def first(hours: float | None) -> str:
        at = None if hours is None else TRAINED_UNTIL + hours * HOUR
        return recommender.recommend(Request(history=(), at=at, n=1)).items[0].item_id

    usual = Recommender(popular).recommend(Request(history=(), n=1)).items[0].item_id
    assert usual not in taken
    found = {hours: first(hours) for hours in (0.0, 2.0, 2.5, 3.0, 4.0, 30.0, 40.0, 41.0, 50.0, 90.0, None)}
    assert found == {
        0.0: usual, 2.0: usual, 2.5: "i11", 3.0: "i11", 4.0: "i10", 30.0: usual, 40.0: usual, 41.0: "i08",
        50.0: usual, 90.0: usual, None: usual,
    }  # fmt: skip


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
    for when in (60.0, 5 * HOUR):  # a clock may be wrong
        store.append([Event("b", "space-13", start + when, event_id=f"b{when}")])
        recommender, _ = service(trained, store, start + 100.0)
        popularity = recommender._popularity
        assert popularity is not None
        assert popularity.moment(start + 100.0) == popularity.moment(None) == np.inf
        assert popularity.moment(start + 60.0) == start + 60.0
        assert popularity.moment(start) == popularity.moment(0.0) == -np.inf
    quiet = service(trained, store, start + 9 * HOUR)[0]._popularity
    assert quiet is not None
    assert quiet.moment(start + 6 * HOUR) == start + 6 * HOUR, "what is popular among guests has become less since"
    assert quiet.moment(start + 9 * HOUR - 30.0) == np.inf


def test_a_changed_catalogue_knows_what_was_taken_before(store: SqlEventStore) -> None:
    model = handmade_model()
    store.append([Event("u", "new", TRAINED_UNTIL + 5.0, event_id="1"), Event("u", "i05", TRAINED_UNTIL + 9.0)])
    recommender, follower = service(model, store, TRAINED_UNTIL + 99.0)
    before = recommender._popularity
    assert before is not None
    changed = ItemEditor(model, None).with_items(model, [ItemChange("new", {"title": ""})])
    after = follower.following(before, changed)
    state = after.state(after.moment(TRAINED_UNTIL + 7.0))
    assert state.signals is not None
    seen = state.signals.items.last_seen[[changed.catalogue.items.row("new"), changed.catalogue.items.row("i05")]]
    assert (seen > TRAINED_UNTIL).tolist() == [True, False]


def test_a_state_is_worked_out_once_for_all_who_ask_for_it(
    trained: FittedModel, store: SqlEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, made = trained.trained_until, list[float]()
    before = Happened.before
    monkeypatch.setattr(Happened, "before", lambda self, time: made.append(time) or before(self, time))
    store.append([Event("a", "space-13", start + 60.0 * k, event_id=f"{k}") for k in range(1, 6)])
    recommender, _ = service(trained, store, start + 9 * HOUR)
    times = [start + 60.0 * k + 1.0 for k in (3, 1, 2, 1, 3)]
    recommender.recommend_many([Request(user="u000", at=at, n=5) for at in times])
    assert sorted(made) == sorted(set(times))


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
