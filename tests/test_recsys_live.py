"""Live counters, popularity and the follower, against numbers worked out by hand and a plain recount."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.tables import IdIndex
from handmade import handmade_model
from recsys.errors import StoreError
from recsys.follower import Follower
from recsys.live import LiveCounters
from recsys.live_items import ItemChange, ItemEditor
from recsys.live_popularity import Consequences, LivePopularity
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import Request
from recsys.retrieval.popularity import PopularitySource
from recsys.stores.base import Event
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore
from recsys.taken import HOUR, Happened, TakenColumns
from waiting import eventually

NOW = 500_000 * HOUR + 1800.0
WEIGHTS = {"view": 1.0, "purchase": 3.0, "impression": 0.0}


def counters(**options: float) -> LiveCounters:
    return LiveCounters(WEIGHTS.__getitem__, **options)  # type: ignore[arg-type]


def event(item: str, *, user: str = "u", hours_ago: float = 0.0, kind: str = "view") -> Event:
    return Event(user, item, NOW - hours_ago * HOUR, kind)


class TestPopularity:
    def test_weights_add_up_and_are_halved_every_quarter_of_the_window(self) -> None:
        counts = counters(hours=24.0)
        counts.add([event("a"), event("a", kind="purchase"), event("b", hours_ago=6), event("c", hours_ago=12)], NOW)
        assert counts.happened(NOW).counts == {"a": 4.0, "b": 0.5, "c": 0.25}

    def test_what_is_nothing_a_user_did_is_not_counted(self) -> None:
        counts = counters()
        counts.add([event("a", kind="impression")], NOW)
        assert counts.happened(NOW).counts == {}

    def test_what_left_the_window_or_is_still_to_come_does_not_count(self) -> None:
        counts = counters(hours=2.0)
        counts.add([event("old", hours_ago=3), event("new"), event("future", hours_ago=-3)], NOW)
        assert set(counts.happened(NOW).counts) == {"new"}
        assert "new" not in counts.happened(NOW + 4 * HOUR).counts
        counts.expire(NOW + 4 * HOUR)
        assert len(counts) == 1, "what is dated ahead is still there"

    def test_a_forgotten_user_leaves_no_trace(self) -> None:
        counts = counters()
        counts.add([event("a"), event("b"), event("c", user="v")], NOW)
        counts.forget("u")
        assert counts.happened(NOW).counts == {"c": 1.0}
        assert len(counts) == 1

    @pytest.mark.parametrize(("days", "kept"), [(math.inf, 3), (3.0, 2), (0.5, 1)])
    def test_what_the_store_keeps_no_longer_is_let_go_however_long_ago_the_training_was(
        self, days: float, kept: int
    ) -> None:
        counts = counters(hours=24.0, days=days)
        counts.since = 0.0
        counts.add([event("a", hours_ago=100), event("b", hours_ago=20), event("c")], NOW)
        counts.expire(NOW)
        assert len(counts) == kept


EVENTS = st.lists(
    st.builds(
        event,
        st.sampled_from("abc"),
        user=st.sampled_from("uv"),
        hours_ago=st.sampled_from([0.0, 0.25, 0.5, 2.0, 30.0]),
        kind=st.sampled_from(["view", "purchase", "impression"]),
    ),
    max_size=30,
)


def held(counts: LiveCounters) -> list[tuple[str, float, float]]:
    found = counts.taken()
    names = [f"{found.user_ids[u]} {found.item_ids[i]}" for u, i in zip(found.users, found.items, strict=True)]
    return list(zip(names, found.times.tolist(), found.weights.tolist(), strict=True))


@given(EVENTS, st.integers(1, 12))
def test_who_has_just_started_counts_what_others_count(events: list[Event], max_events: int) -> None:
    """The counts are those of the newest events, whether older ones were ever there or not."""
    followed = counters(max_events=max_events)
    for one in events:
        followed.add([one], NOW)
    counted = [e for e in events if e.event != "impression" and e.time >= NOW - 24 * HOUR]
    started = counters(max_events=max_events)
    started.add(counted[-max_events:], NOW)
    assert len(followed) == min(len(counted), max_events)
    assert followed.happened(NOW).counts == started.happened(NOW).counts
    assert held(followed) == held(started)


@given(EVENTS)
def test_what_all_leave_is_nothing(events: list[Event]) -> None:
    counts = counters()
    counts.add(events, NOW)
    for user in "uv":
        counts.forget(user)
    assert held(counts) == []
    assert (counts.happened(NOW).counts, len(counts)) == ({}, 0)


def taken_now(counts: dict[str, float]) -> Happened:
    columns = TakenColumns(20)
    for item, weight in counts.items():
        columns.add("u", item, NOW, weight)
    return Happened(columns.taken(), NOW, 24.0)


class TestLivePopularity:
    @pytest.fixture
    def base(self) -> PopularitySource:
        return PopularitySource(np.log1p([6.0, 3.0, 1.0, 0.0]).astype(np.float32), np.array([0, 1, 2, 3]))

    def test_the_bundle_weighs_as_much_as_the_prior(self, base: PopularitySource) -> None:
        """Shares of .6, .3 and .1 of 10 events are 6, 3, 1 and 0; four live events of the last make it 4."""
        live = Consequences(base, IdIndex("abcd"), prior=10.0)
        source = live.source_of({"d": 4.0, "unheard of": 99.0})
        assert source.order.tolist() == [0, 3, 1, 2]
        assert np.expm1(source.values) == pytest.approx([6, 3, 1, 4], rel=1e-5)
        assert live.source_of({}) is base

    @given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([0.5, 1.0, 2.0, 4.0])))
    def test_the_order_is_that_of_the_values_and_ties_go_by_id(self, counts: dict[str, float]) -> None:
        ids = IdIndex("hgfedcba")
        known = np.array([5.0, 5.0, 1.0, 0.0, 0.0, 0.0, 2.0, 1.0])
        by_id = np.argsort(ids.ids, kind="stable")
        base = PopularitySource(np.log1p(known).astype(np.float32), by_id[np.argsort(-known[by_id], kind="stable")])
        live = Consequences(base, ids, prior=14.0)
        source = live.source_of(counts)
        order = source.order
        assert sorted(order.tolist()) == list(range(8))
        values = source.values[order]
        assert (np.diff(values) <= 1e-6).all()

    @given(st.dictionaries(st.sampled_from(["i00", "i05", "i11", "unheard of"]), st.sampled_from([0.5, 1.0, 2.0])))
    def test_it_goes_over_to_a_model_with_new_items_as_if_it_were_counted_again(self, counts: dict[str, float]) -> None:
        model = handmade_model()
        live = LivePopularity(Consequences(model.fallback, model.catalogue.items, prior=14.0))
        live.know(taken_now(counts))
        new = [ItemChange(item_id, {"title": ""}) for item_id in ("zz", "i005", "a")]
        changed = ItemEditor(model, None).with_items(model, new)
        after, anew = (
            live.following(changed),
            LivePopularity(Consequences(changed.fallback, changed.catalogue.items, prior=14.0)),
        )
        anew.know(taken_now(counts))
        np.testing.assert_array_equal(after.view.state.source.order, anew.view.state.source.order)
        np.testing.assert_allclose(after.view.state.source.values, anew.view.state.source.values, rtol=1e-6)
        after.know(taken_now({}))
        assert after.view.state.source is changed.fallback


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    opened = SqlEventStore.open(str(tmp_path / "events.sqlite"), StoreSettings(poll_seconds=0.05))
    yield opened
    opened.close()


class TestFollower:
    def make(self, store: SqlEventStore) -> tuple[Recommender, Follower]:
        model = handmade_model()
        reader = StoreReader(store, store.settings)
        popularity = LivePopularity(Consequences(model.fallback, model.catalogue.items, prior=10.0))
        recommender = Recommender.live(model, reader, popularity)
        counts = LiveCounters(recommender.kind_weight)
        return recommender, Follower(store, reader, counts, [popularity])

    def guest(self, recommender: Recommender, **options: float) -> list[str]:
        answer = recommender.recommend(Request(history=(), n=3, **options))  # type: ignore[arg-type]
        return [item.item_id for item in answer.items]

    def test_a_guest_is_shown_what_is_taken_now(self, store: SqlEventStore) -> None:
        recommender, follower = self.make(store)
        assert self.guest(recommender) == ["i00", "i01", "i02"]
        now = time.time()
        store.append([Event(f"u{k}", "i11", now) for k in range(50)])
        follower.step()
        assert self.guest(recommender) == ["i11", "i00", "i01"]
        assert self.guest(recommender, at=now) == ["i00", "i01", "i02"], "what is asked for a time knows no later event"

    def test_two_workers_say_the_same_whenever_they_started(self, store: SqlEventStore) -> None:
        early, following = self.make(store)
        following.step()
        now = time.time()
        for k in range(30):
            store.append([Event(f"u{k % 4}", f"i{k % 7:02d}", now - 60 * k, "view")])
            following.step()
        late, starting = self.make(store)
        starting.step()
        following._published_at = float("-inf")
        following._unpublished = True
        following.step()
        assert self.guest(early) == self.guest(late)
        assert held(following.counters) == held(starting.counters)
        assert following.sequence == starting.sequence == store.head()

    @pytest.mark.parametrize("batches", [1, 2, 3])
    def test_who_was_forgotten_and_comes_back_counts_alike_on_all_workers(
        self, store: SqlEventStore, batches: int
    ) -> None:
        _, following = self.make(store)
        following.step()
        now = time.time()
        for seconds, item_id in ((0.0, "i01"), (HOUR, "i02"), (HOUR + 9.0, "i03")):
            store.append([Event("bob", item_id, now + seconds, "view")])
        if batches > 1:
            following.step()
            assert len(following.counters) == 3
        store.forget("bob", now + 1.0)
        if batches > 2:
            following.step()
            assert len(following.counters) == 0
        store.append([Event("bob", item_id, now + 2.0, "view") for item_id in ("i04", "i05")])
        following.step()
        store.append([Event("bob", "i06", now + 3.0, "view")])
        following.step()
        _, starting = self.make(store)
        starting.step()
        assert held(following.counters) == held(starting.counters)
        assert [name for name, _, _ in held(starting.counters)] == ["bob i04", "bob i05", "bob i06"]

    def test_the_thread_follows_and_ends(self, store: SqlEventStore) -> None:
        _, follower = self.make(store)
        follower.start()
        follower.start()
        try:
            store.append([Event("u", "i05", time.time())])
            assert eventually(lambda: len(follower.counters) == 1)
            store.forget("u", time.time() + 1)
            assert eventually(lambda: len(follower.counters) == 0)
            assert follower._reader.forgotten.keys() == {"u"}
        finally:
            follower.stop()
        assert follower._thread is None

    def test_a_store_that_comes_back_is_followed_on(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        link = tmp_path / "link"
        link.symlink_to("missing")
        store = SqlEventStore(str(link / "events.sqlite"), StoreSettings(poll_seconds=0.05))
        _, follower = self.make(store)
        with pytest.raises(StoreError):
            follower.step()
        follower.start()
        try:
            time.sleep(0.2)
            assert follower.sequence == -1
            (tmp_path / "new").symlink_to("real")
            (tmp_path / "new").replace(link)
            store.append([Event("u", "i05", time.time())])
            assert eventually(lambda: len(follower.counters) == 1)
        finally:
            follower.stop()
            store.close()

    def test_an_error_of_any_kind_is_told_once_and_does_not_end_the_thread(
        self, store: SqlEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Greedy(LivePopularity):
            """Wants more memory than there is, for a time."""

            tried = 0

            def know(self, happened: Happened) -> None:
                self.tried += 1
                if self.tried < 4:
                    raise MemoryError("too large")
                super().know(happened)

        model = handmade_model()
        popularity = Greedy(Consequences(model.fallback, model.catalogue.items, prior=10.0))
        reader = StoreReader(store, store.settings)
        follower = Follower(store, reader, LiveCounters(lambda _: 1.0), [popularity])
        store.append([Event("u", "i05", time.time())])
        follower.start()
        try:
            thread = follower._thread
            assert eventually(lambda: popularity.view.state.source is not model.fallback)
            assert follower._thread is thread
        finally:
            follower.stop()
        assert popularity.tried == 4
        assert caplog.text.count("live counters stand still: too large") == 1
        assert caplog.text.count("Traceback") == 1

    def test_what_comes_between_being_informed_and_being_followed_is_published_soon(self, store: SqlEventStore) -> None:
        _, follower = self.make(store)
        follower.start()
        try:
            assert eventually(lambda: follower.sequence == 0)
            model = handmade_model()
            coming = LivePopularity(Consequences(model.fallback, model.catalogue.items, prior=10.0))
            follower.inform(coming)
            store.append([Event("u", "i05", time.time())])
            assert eventually(lambda: len(follower.counters) == 1 and not follower._unpublished)
            assert coming.view.state.source is model.fallback
            follower.follow(coming)
            assert eventually(lambda: coming.view.state.source is not model.fallback)
        finally:
            follower.stop()

    def test_what_goes_over_to_a_model_with_new_items_is_counted_again_only_where_it_has_to_be(
        self, store: SqlEventStore
    ) -> None:
        model, now = handmade_model(), time.time()
        editor, reader = ItemEditor(model, None), StoreReader(store, store.settings)
        popularity = LivePopularity(Consequences(model.fallback, model.catalogue.items, prior=10.0))
        follower = Follower(store, reader, LiveCounters(lambda _: 1.0), [popularity])
        store.append([Event("u", "i05", now), Event("v", "early", now)])
        follower.step()
        model = editor.with_items(model, [ItemChange("new", {"title": ""})])
        first = follower.following(popularity, model)
        follower.follow(first)
        assert not follower._unpublished
        assert first.view.state.source.values[5] > 0
        second = follower.following(first, model)
        follower.publish()
        follower.follow(second)
        assert follower._unpublished, "what was published meanwhile went to the one before"
        follower.publish()
        model = editor.with_items(model, [ItemChange("early", {"title": ""})])
        third = follower.following(second, model)
        follower.follow(third)
        assert third.view.state.source.values[13] == 0
        assert follower._unpublished, "an event came sooner than its item"
        follower.publish()
        assert third.view.state.source.values[13] > 0

    def test_other_weights_of_events_count_for_those_that_are_held(self, store: SqlEventStore) -> None:
        weight = [1.0]
        counts = LiveCounters(lambda _: weight[0])
        follower = Follower(store, StoreReader(store, store.settings), counts)
        now = time.time()
        store.append([Event("u", "i05", now)])
        follower.step()
        assert counts.happened(now).counts == {"i05": 1.0}
        weight[0] = 3.0
        follower.follow(anew=True)
        follower.step()
        assert counts.happened(now).counts == {"i05": 3.0}

    def test_who_was_forgotten_before_the_start_is_known(self, store: SqlEventStore) -> None:
        store.forget("ann", 5.0)
        _, follower = self.make(store)
        follower.step()
        assert follower._reader.forgotten == {"ann": 5.0}


class TestJumpingClock:
    """The follower of a machine whose clock goes wrong."""

    YEAR = 365 * 24 * HOUR

    @pytest.fixture
    def now(self) -> list[float]:
        return [time.time()]

    def follower(self, store: SqlEventStore, now: list[float]) -> Follower:
        counts = LiveCounters(lambda _: 1.0)
        return Follower(store, StoreReader(store, store.settings), counts, clock=lambda: now[0])

    @pytest.mark.parametrize("jump", [-YEAR, -HOUR, HOUR, YEAR])
    def test_afterwards_it_counts_what_a_worker_counts_that_never_saw_the_jump(
        self, store: SqlEventStore, now: list[float], jump: float
    ) -> None:
        follower = self.follower(store, now)
        for moved in (0.0, jump, -jump):
            now[0] += moved
            store.append([Event(f"u{k}", f"i{k}", now[0], query="tea", event_id=f"{moved}{k}") for k in range(5)])
            follower._published_at = float("-inf")
            follower.step()
            assert follower.sequence == store.head()
        other = self.follower(store, now)
        other.step()
        assert follower.counters.happened(now[0]).counts == other.counters.happened(now[0]).counts != {}
        assert follower.queries.taken("tea") == other.queries.taken("tea") != {}
        assert len(follower.counters) == len(other.counters) <= 15

    def test_events_stamped_in_the_future_do_not_keep_others_in_the_window(self, now: list[float]) -> None:
        counts = LiveCounters(lambda _: 1.0)
        counts.add([Event("u", "ahead", now[0] + self.YEAR), Event("v", "a", now[0]), Event("v", "b", now[0])], now[0])
        counts.expire(now[0] + 25 * HOUR)
        assert len(counts) == 1

    def test_a_jump_forward_makes_retention_remove_nothing(self, tmp_path: Path, now: list[float]) -> None:
        store = SqlEventStore.open(str(tmp_path / "kept.sqlite"), StoreSettings(retention_days=30))
        follower = self.follower(store, now)
        store.append([Event("u", "old", now[0] - 29 * 24 * HOUR), Event("u", "new", now[0])])
        follower._keep_house()
        now[0] += self.YEAR
        store.append([Event("u", "stamped ahead", now[0])])
        self.house(follower)
        assert store.history("u").item_ids == ("old", "new", "stamped ahead")
        now[0] -= self.YEAR
        self.house(follower)
        assert len(store.history("u")) == 3
        store.close()

    def test_a_service_that_starts_with_a_wrong_clock_removes_nothing(self, tmp_path: Path, now: list[float]) -> None:
        store = SqlEventStore.open(str(tmp_path / "kept.sqlite"), StoreSettings(retention_days=30))
        store.append([Event("u", "oldest", now[0] - 31 * 24 * HOUR), Event("u", "old", now[0] - 29 * 24 * HOUR)])
        store.append([Event("u", "new", now[0])])
        now[0] += self.YEAR
        self.house(self.follower(store, now))
        assert store.history("u").item_ids == ("old", "new")
        store.close()

    def house(self, follower: Follower) -> None:
        follower._kept_house_at = float("-inf")
        follower._keep_house()


def test_a_plain_recount_agrees() -> None:
    rng = np.random.default_rng(0)
    events = [
        event(f"i{rng.integers(9)}", user=f"u{rng.integers(5)}", hours_ago=float(rng.integers(6))) for _ in range(300)
    ]
    counts = counters(hours=1e6)
    counts.add(events, NOW)
    expected = Counter(e.item_id for e in events)
    assert {item: round(value, 2) for item, value in counts.happened(NOW).counts.items()} == pytest.approx(
        dict(expected), 1e-3
    )
