"""What has happened since the training counts in the lists of those who have a history, and in no others."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import world
from features.decay import continued
from features.item import ItemFeatures
from features.runs import Pairs
from features.state import load_state, save_state
from features.tables import Dataset, Events, IdIndex
from handmade import TRAINED_UNTIL, handmade_model
from ranking.by_score import ByScoreRanker
from recsys.follower import Follower
from recsys.live import LiveCounters
from recsys.live_items import ItemChange, ItemEditor
from recsys.live_popularity import Consequences, LivePopularity
from recsys.live_ranking import LiveRanking, LiveSignals, _Rows
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import HistoryEvent, Recommendation, Request
from recsys.retrieval.popularity import PopularitySource
from recsys.retrieval.transitions import LiveTransitionsSource, Moments, TransitionsSettings, TransitionsSource
from recsys.settings import Settings
from recsys.stores.base import Event
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore
from recsys.taken import Taken, TakenColumns
from recsys.training import train
from waiting import eventually

SETTINGS = StoreSettings(poll_seconds=0.05)


class TestContinued:
    def test_old_counts_make_room_for_new_ones(self) -> None:
        assert continued(np.array([6.0, 2.0, 0.0]), np.array([0.0, 0.0, 2.0])).tolist() == [4.5, 1.5, 2.0]

    def test_more_than_all_that_was_known_is_brought_to_its_scale(self) -> None:
        assert continued(np.array([3.0, 1.0]), np.array([0.0, 8.0])).tolist() == [0.0, 4.0]

    def test_without_one_of_them_the_other_is_all(self) -> None:
        for counts in ([3.0, 1.0], [0.0, 0.0]):
            nothing = np.zeros(2)
            assert continued(np.array(counts), nothing).tolist() == counts
            assert continued(nothing, np.array(counts)).tolist() == counts

    def test_at_a_steady_pace_it_is_what_decay_makes_of_both(self) -> None:
        """One event a second for ever, of item 0 up to the training and of item 1 afterwards; half-life 10 s."""
        ages = np.arange(2000.0)
        before, later = ages[15:] - 15, ages[:15]
        trained = np.array([(0.5 ** (before / 10)).sum(), 0.0])
        since = np.array([0.0, (0.5 ** (later / 10)).sum()])
        now = np.array([(0.5 ** (ages[15:] / 10)).sum(), since[1]])
        np.testing.assert_allclose(continued(trained, since), now, rtol=1e-9)


def taken(*events: tuple[str, float]) -> Taken:
    """Events of weight 1, so many seconds after the training."""
    columns = TakenColumns(100)
    for item_id, seconds in events:
        columns.add("somebody", item_id, TRAINED_UNTIL + seconds, 1.0)
    return columns.taken()


class TestLiveRanking:
    def test_popularity_and_the_statistics_of_items_go_on(self) -> None:
        model = handmade_model()
        base, items = model.fallback, model.features.items
        half_life = base.half_life
        assert half_life is not None
        ranking = LiveRanking(model)
        now = TRAINED_UNTIL + 2 * half_life
        signals = ranking.signals_of(taken(("i05", 2 * half_life), ("i05", half_life), ("nobody knows", 1.0)), now)
        assert signals is not None
        total = base.counts.sum()
        assert signals.popularity.counts.sum() == pytest.approx(total, rel=1e-5)
        assert signals.popularity.counts[5] == pytest.approx(min(total, 1.5), rel=1e-5)
        assert signals.items.first_seen[5] == TRAINED_UNTIL + half_life
        assert signals.items.last_seen[5] == now
        np.testing.assert_array_equal(signals.items.popularity[:, -1], items.popularity[:, -1])
        for k, span in enumerate(items.half_lives):
            later = 1 + 0.5 ** (half_life / span)
            before = np.expm1(items.popularity[:, k].astype(np.float64))
            expected = continued(before, later * (np.arange(12) == 5))
            np.testing.assert_allclose(np.expm1(signals.items.popularity[:, k]), expected, rtol=1e-5, atol=1e-6)
        known = np.delete(np.arange(12), 5)
        np.testing.assert_array_equal(signals.items.last_seen[known], items.last_seen[known])

    def test_what_is_dated_ahead_happened_now(self) -> None:
        """The ranker has never seen an age below zero."""
        ranking = LiveRanking(handmade_model())
        now = TRAINED_UNTIL + 60.0
        signals = ranking.signals_of(taken(("i05", 3600.0), ("i06", 7200.0), ("i06", 30.0)), now)
        assert signals is not None
        items = signals.items
        assert (items.first_seen[5], items.first_seen[6]) == (now, TRAINED_UNTIL + 30.0)
        assert items.last_seen[5] == items.last_seen[6] == now

    def test_what_the_model_knows_already_is_not_counted_twice(self) -> None:
        ranking = LiveRanking(handmade_model())
        signals = ranking.signals_of(taken(("i05", -5.0), ("i06", 0.0)), TRAINED_UNTIL + 9)
        assert signals is None

    def test_forgotten_events_leave_no_trace(self) -> None:
        ranking = LiveRanking(handmade_model())
        signals = ranking.signals_of(taken(("i05", 1.0)), TRAINED_UNTIL + 1)
        assert signals is not None
        signals = ranking.signals_of(taken(), TRAINED_UNTIL + 1)
        assert signals is None

    def test_a_model_without_a_clock_or_from_before_stays_as_it_is(self, tmp_path: Path) -> None:
        model = handmade_model()
        save_state(model.fallback, tmp_path / "new")
        state = tmp_path / "new" / "state.json"
        values = json.loads(state.read_text())
        assert load_state(PopularitySource, tmp_path / "new").half_life == values.pop("half_life")
        state.write_text(json.dumps(values))
        old = load_state(PopularitySource, tmp_path / "new")
        assert old.half_life is None
        items = dataclasses.replace(model.features.items, half_lives=())
        ranking = LiveRanking(dataclasses.replace(model, fallback=old, features=model.features.with_items(items)))
        assert ranking.since == np.inf
        signals = ranking.signals_of(taken(("i05", 1.0)), TRAINED_UNTIL + 1)
        assert signals is None

    @given(st.lists(st.tuples(st.integers(0, 14), st.integers(1, 50)), min_size=1, max_size=40))
    def test_the_order_is_that_of_the_values(self, events: list[tuple[int, int]]) -> None:
        ranking = LiveRanking(handmade_model())
        signals = ranking.signals_of(
            taken(*((f"i{item:02d}", float(seconds)) for item, seconds in events)), TRAINED_UNTIL + 60
        )
        if signals is None:
            assert all(item >= 12 for item, _ in events)
            return
        source = signals.popularity
        assert sorted(source.order.tolist()) == list(range(12))
        assert (np.diff(source.values[source.order]) <= 1e-6).all()


def same_signals(one: LiveSignals | None, other: LiveSignals | None) -> bool:
    """Whether they are equal, or both are none; sums over more items may be rounded otherwise."""
    if one is None or other is None:
        return one is other
    np.testing.assert_array_equal(one.popularity.order, other.popularity.order)
    np.testing.assert_allclose(one.popularity.values, other.popularity.values, rtol=1e-6)
    for field in dataclasses.fields(ItemFeatures):
        own, its = getattr(one.items, field.name), getattr(other.items, field.name)
        if isinstance(own, np.ndarray):
            np.testing.assert_allclose(own, its, rtol=1e-6)
        else:
            assert own == its
    assert one.sources.keys() == other.sources.keys()
    for name, source in one.sources.items():
        for matrix in ("weights", "added"):
            own, its = getattr(source, matrix), getattr(other.sources[name], matrix)
            assert own.shape == its.shape
            assert (own != its).nnz == 0
        np.testing.assert_array_equal(source.out_of, other.sources[name].out_of)
    return True


NEW_ITEMS = st.lists(st.sampled_from(["a", "i005", "i07b", "i11x", "zz"]), min_size=1, max_size=4, unique=True)


class TestFollowingAModel:
    """What took place goes over to a model with new items without being counted again."""

    @given(
        st.lists(st.tuples(st.integers(0, 14), st.sampled_from([1, 2, 30, 100_000])), max_size=30),
        st.lists(NEW_ITEMS, min_size=1, max_size=2),
    )
    def test_signals_are_those_that_would_be_counted(
        self, events: list[tuple[int, int]], changes: list[list[str]]
    ) -> None:
        model = handmade_model()
        ranking, now = LiveRanking(model), TRAINED_UNTIL + 100_000
        happened = taken(*((f"i{item:02d}", float(seconds)) for item, seconds in events))
        signals = ranking.signals_of(happened, now)
        editor = ItemEditor(model, None)
        for new in changes:
            model = editor.with_items(model, [ItemChange(item_id, {"title": ""}) for item_id in new])
            signals = signals and signals.following(model)
            assert same_signals(signals, LiveRanking(model).signals_of(happened, now))

    @pytest.mark.parametrize("sources", [("transitions",), None])
    def test_and_so_are_those_of_a_trained_model(
        self, tiny_dataset: Dataset, tiny_model: FittedModel, walker: FittedModel, cut: float, sources: object
    ) -> None:
        model = walker if sources else dataclasses.replace(tiny_model, trained_until=cut)
        happened, now = TestTransitions().later(tiny_dataset, cut), float(tiny_dataset.events.times.max())
        before = LiveRanking(model).signals_of(happened, now)
        assert before is not None
        changes = [
            ItemChange("new", {"title": "", "price": 3.0}), ItemChange("garden-05", None),
            ItemChange("space-03", {"title": "", "price": 99.0}),
        ]  # fmt: skip
        changed = ItemEditor(model, None).with_items(model, changes)
        after = before.following(changed)
        assert after.sources["transitions"].added.nnz
        assert same_signals(after, LiveRanking(changed).signals_of(happened, now))
        assert after.items.numbers is changed.features.items.numbers, "what does not go on is the model's own"

    def test_what_came_sooner_than_its_item_counts_the_next_time(self) -> None:
        model = handmade_model()
        ranking, now = LiveRanking(model), TRAINED_UNTIL + 9
        columns = TakenColumns(20)
        for item_id in ("i05", "new", "i06", "nobody knows"):
            columns.add("somebody", item_id, TRAINED_UNTIL + 1.0, 1.0)
        before = ranking.signals_of(columns.taken(), now)
        assert before is not None
        changed = ItemEditor(model, None).with_items(model, [ItemChange("new", {"title": ""})])
        assert before.following(changed).items.last_seen.tolist()[12:] != [TRAINED_UNTIL + 1.0]
        columns.add("somebody", "later", TRAINED_UNTIL + 2.0, 1.0)
        after = ranking.following(changed).signals_of(columns.taken(), now)
        assert after is not None
        assert same_signals(after, LiveRanking(changed).signals_of(columns.taken(), now))
        assert after.items.last_seen[12] == TRAINED_UNTIL + 1.0
        still = ranking.signals_of(columns.taken(), now)
        assert still is not None
        assert len(still.items.last_seen) == 12, "the model before goes on by itself"

    def test_steps_go_with_rows_that_change(self, tiny_dataset: Dataset, walker: FittedModel, cut: float) -> None:
        ranking = LiveRanking(walker)
        signals = ranking.signals_of(TestTransitions().later(tiny_dataset, cut), cut + world.DAY)
        assert signals is not None
        source = signals.sources["transitions"]
        changed = ItemEditor(walker, None).with_items(
            dataclasses.replace(walker, sources=(source,)), [ItemChange("new", {"title": ""})]
        )
        (longer,) = changed.sources
        assert isinstance(longer, LiveTransitionsSource)
        known = HistoryEvent(str(walker.catalogue.items.ids[np.argmax(np.diff(source.added.indptr))]))
        found, before = (
            one.scores(Recommender(model).histories([Request(history=history)]))[""].at(
                Pairs(np.zeros(n, np.int64), np.arange(n))
            )
            for one, model, history, n in (
                (longer, changed, (HistoryEvent("new"), known), len(changed.catalogue)),
                (source, walker, (known,), len(walker.catalogue)),
            )
        )
        assert found.any()
        np.testing.assert_array_equal(found, [*before, 0.0])


@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=40))
def test_columns_hold_what_was_not_removed_in_order(capacity: int, steps: list[tuple[str, bool]]) -> None:
    columns, held = TakenColumns(capacity), list[tuple[str, int, float]]()
    for number, (item_id, forget) in enumerate(steps):
        if len(held) == capacity:
            columns.remove(held.pop(0)[1])
        slot = columns.add(item_id.upper(), item_id, float(number), 1.0)
        if slot < 0:  # what is held is put into new columns
            columns = TakenColumns(capacity)
            held = [(one, columns.add(one.upper(), one, when, 1.0), when) for one, _, when in held]
            slot = columns.add(item_id.upper(), item_id, float(number), 1.0)
        assert slot >= 0
        held.append((item_id, slot, float(number)))
        if forget:
            columns.remove(held.pop(len(held) // 2)[1])
    found = columns.taken()
    assert [found.item_ids[code] for code in found.items] == [item_id for item_id, _, _ in held]
    assert [found.user_ids[code] for code in found.users] == [item_id.upper() for item_id, _, _ in held]
    assert found.times.tolist() == [when for _, _, when in held]


@pytest.fixture(scope="module")
def cut(tiny_dataset: Dataset) -> float:
    return float(np.quantile(tiny_dataset.events.times, 0.6))


@pytest.fixture(scope="module")
def walker(tiny_dataset: Dataset, tiny_settings: Settings, cut: float) -> FittedModel:
    """Transitions alone, trained on what was before the cut."""
    known = tiny_dataset.with_events(tiny_dataset.events.before(cut))
    return train(known, tiny_settings.model_copy(update={"sources": ("transitions",), "ranker": "by_score"}))


class TestTransitions:
    """The steps that others take from item to item, joined to what the model knows of them."""

    def later(self, dataset: Dataset, cut: float) -> Taken:
        columns, events = TakenColumns(1000), dataset.events
        for k in np.flatnonzero(events.times >= cut):
            user, item = dataset.users.ids[events.user_rows[k]], dataset.catalogue.items.ids[events.item_rows[k]]
            columns.add(user, item, float(events.times[k]), 1.0)
        return columns.taken()

    def counts(self, events: Events, num_items: int) -> np.ndarray:
        moments = Moments.of(events.user_rows, events.item_rows, events.times, num_items)
        return moments.counts(TransitionsSettings().window).toarray()

    def test_they_are_what_counting_everything_anew_would_add(
        self, tiny_dataset: Dataset, walker: FittedModel, cut: float
    ) -> None:
        events, num_items = tiny_dataset.events, len(tiny_dataset.catalogue)
        ranking = LiveRanking(walker)
        signals = ranking.signals_of(self.later(tiny_dataset, cut), float(events.times.max()))
        assert signals is not None
        source = signals.sources["transitions"]
        known = self.counts(events.before(cut), num_items)
        expected = self.counts(events, num_items) - known
        assert expected.any()
        roots = [np.sqrt(np.maximum(known.sum(axis=axis), 1.0)) for axis in (1, 0)]
        np.testing.assert_allclose(source.added.toarray(), expected / np.outer(*roots), atol=1e-6)
        np.testing.assert_array_equal(source.weights.toarray(), walker.sources[0].weights.toarray())

    def test_a_history_goes_by_both(self, tiny_dataset: Dataset, walker: FittedModel, cut: float) -> None:
        ranking = LiveRanking(walker)
        signals = ranking.signals_of(self.later(tiny_dataset, cut), cut + world.DAY)
        assert signals is not None
        source = signals.sources["transitions"]
        histories = Recommender(walker).histories([ASKED, Request(user="u001")])
        joined = dataclasses.replace(walker.sources[0], weights=(source.weights + source.added).tocsr())
        n = histories.num_items
        pairs = Pairs(np.repeat([0, 1], n), np.tile(np.arange(n), 2))
        for view, found in source.scores(histories).items():
            np.testing.assert_allclose(found.at(pairs), joined.scores(histories)[view].at(pairs), rtol=1e-5)

    def test_of_who_was_forgotten_nothing_from_before_is_known(self, walker: FittedModel, cut: float) -> None:
        ranking = LiveRanking(walker)
        columns = TakenColumns(10)
        columns.add("u000", "garden-07", cut + 5.0, 1.0)
        for forgotten, steps in (((), True), ({"u000"}, False)):
            signals = ranking.signals_of(columns.taken(), cut + 9.0, forgotten)
            assert signals is not None
            assert signals.sources["transitions"].added.toarray().any() == steps

    def test_baskets_of_very_many_items_lead_nowhere(self, walker: FittedModel, cut: float) -> None:
        """One user could else make steps of every item to every other, and a gigabyte of them."""
        new = [f"new-{k:04d}" for k in range(2050)]
        wider = ItemEditor(walker, None).with_items(walker, [ItemChange(item_id, {"title": ""}) for item_id in new])
        columns = TakenColumns(3000)
        for moment, items in enumerate((new[:1001], new[1001:2002], new[2002:2003], new[2003:])):
            for item_id in items:
                columns.add("robot", item_id, cut + 5.0 + moment, 1.0)
        columns.add("u000", "garden-07", cut + 5.0, 1.0)
        ranking = LiveRanking(wider)
        signals = ranking.signals_of(columns.taken(), cut + 60.0)
        assert signals is not None
        rows = wider.catalogue.items.rows([*new, "garden-07"])
        added = signals.sources["transitions"].added[:, rows]
        assert added[rows[:1001], 1001:2002].nnz == 0
        assert added[rows[2002], 2003:2050].nnz == 47
        assert added[:, 2050].nnz == TransitionsSettings().window

    def test_what_many_others_did_in_between_makes_no_steps_that_were_never_taken(
        self, walker: FittedModel, cut: float
    ) -> None:
        added = []
        for others in (0, 10_000):
            columns = TakenColumns(11_000)
            for k in range(3):
                columns.add("u000", f"garden-{k:02d}", cut + 1.0 + k, 1.0)
            for k in range(others):
                columns.add(f"x{k}", "space-00", cut + 10.0, 1.0)
            columns.add("u000", "garden-07", cut + 20.0, 1.0)
            ranking = LiveRanking(walker)
            signals = ranking.signals_of(columns.taken(), cut + 30.0)
            assert signals is not None
            into = signals.sources["transitions"].added[:, [walker.catalogue.items.row("garden-07")]]
            added.append(into.toarray())
        np.testing.assert_array_equal(*added)

    def test_no_more_of_a_history_is_joined_than_the_source_looks_at(self, walker: FittedModel, cut: float) -> None:
        columns = TakenColumns(10)
        columns.add("u000", "garden-07", cut + 5.0, 1.0)
        steps = {}
        for limit in (100, 2):
            source = dataclasses.replace(walker.sources[0], history_limit=limit)
            ranking = LiveRanking(dataclasses.replace(walker, sources=(source,)))
            signals = ranking.signals_of(columns.taken(), cut + 9.0)
            assert signals is not None
            steps[limit] = signals.sources["transitions"].added.nnz
        assert steps == {100: 3, 2: 2}

    def test_a_training_event_dated_ahead_hides_nothing_that_happens_until_then(
        self, tiny_dataset: Dataset, tiny_settings: Settings
    ) -> None:
        times = tiny_dataset.events.times.copy()
        times[-1] = time.time() + 14 * 3600.0
        ahead = tiny_dataset.with_events(dataclasses.replace(tiny_dataset.events, times=times))
        quick = tiny_settings.model_copy(update={"sources": ("transitions",), "ranker": "by_score"})
        ranking = LiveRanking(train(ahead, quick))
        columns, now = TakenColumns(10), time.time()
        columns.add("somebody", "garden-07", now, 1.0)
        assert ranking.signals_of(columns.taken(), now) is not None

    def test_a_bundle_from_before_goes_on_without(self, walker: FittedModel, tmp_path: Path) -> None:
        save_state(walker.sources[0], tmp_path / "new")
        again = load_state(TransitionsSource, tmp_path / "new")
        np.testing.assert_array_equal(again.out_of, walker.sources[0].out_of)
        for name in ("out_of", "into"):
            (tmp_path / "new" / f"{name}.npy").unlink()
        old = load_state(TransitionsSource, tmp_path / "new")
        ranking = LiveRanking(dataclasses.replace(walker, sources=(old,)))
        signals = ranking.signals_of(taken(("space-13", 2e9)), 4e9)
        assert signals is not None
        assert signals.sources == {}

    def test_what_others_take_next_is_offered(self, walker: FittedModel, store: SqlEventStore) -> None:
        """Readers of space books never met a garden book; now others go from the user's newest book to one."""
        recommender, follower = live(walker, store)
        newest = str(walker.catalogue.items.ids[recommender.histories([ASKED]).item_rows[-1]])
        before = recommender.recommend(ASKED)
        assert before.items[0].item_id != "garden-07"
        follower.start()
        try:
            time.sleep(0.3)
            now = time.time()
            store.append([Event(f"x{k}", newest, now - 60.0) for k in range(200)])
            store.append([Event(f"x{k}", "garden-07", now - 30.0) for k in range(200)])
            assert comes_first("garden-07", recommender)
        finally:
            follower.stop()


def live(model: FittedModel, store: SqlEventStore) -> tuple[Recommender, Follower]:
    reader = StoreReader(store, store.settings)
    popularity = LivePopularity(Consequences(model.fallback, model.catalogue.items, 500.0, LiveRanking(model)))
    recommender = Recommender.live(model, reader, popularity)
    return recommender, Follower(store, reader, LiveCounters(recommender.kind_weight), [popularity])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    opened = SqlEventStore.open(str(tmp_path / "events.sqlite"), SETTINGS)
    yield opened
    opened.close()


ASKED = Request(user="u000", n=30)


def comes_first(item_id: str, recommender: Recommender) -> bool:
    return eventually(lambda: recommender.recommend(ASKED).items[0].item_id == item_id)


def scores(answer: Recommendation) -> dict[str, float]:
    return {item.item_id: item.score for item in answer.items}


class TestService:
    """By the trained model of the tiny world; nobody but the one user asks, and nobody posts but others."""

    def post(self, store: SqlEventStore) -> None:
        now = time.time()
        store.append([Event(f"other{k}", "space-13", now, "purchase") for k in range(300)])

    def test_what_others_take_moves_in_anothers_list(self, tiny_model: FittedModel, store: SqlEventStore) -> None:
        popular = dataclasses.replace(
            tiny_model, sources=(tiny_model.fallback,), ranker=ByScoreRanker.of({tiny_model.fallback.name: 1.0})
        )
        recommender, follower = live(popular, store)
        before = recommender.recommend(ASKED)
        assert before.items[0].item_id != "space-13"
        follower.start()
        try:
            time.sleep(0.3)
            self.post(store)
            assert comes_first("space-13", recommender)
        finally:
            follower.stop()
        assert recommender.recommend(ASKED).strategy == before.strategy

    def test_the_learned_ranker_sees_it(self, tiny_model: FittedModel, store: SqlEventStore) -> None:
        assert tiny_model.ranker.kind == "lambdamart"
        recommender, follower = live(tiny_model, store)
        wanted = dataclasses.replace(ASKED, among=("space-13",))
        before = recommender.candidates([wanted]).matrix
        self.post(store)
        follower.step()
        after = recommender.candidates([wanted]).matrix
        assert after.names == before.names
        for name in ("popularity:score", "item:popularity_0", "item:trend"):
            assert after.column(name)[0] > before.column(name)[0]
        assert after.column("item:days_since_last_event")[0] < 1 < before.column("item:days_since_last_event")[0]
        assert recommender.recommend(ASKED) == recommender.recommend(ASKED)

    def test_a_time_that_is_named_and_a_model_without_a_store_know_nothing_of_it(
        self, tiny_model: FittedModel, store: SqlEventStore
    ) -> None:
        recommender, follower = live(tiny_model, store)
        at = dataclasses.replace(ASKED, at=tiny_model.trained_until + 5)
        apart = Recommender(tiny_model)
        before, still = recommender.recommend(at), apart.recommend(ASKED)
        self.post(store)
        follower.step()
        assert recommender.recommend(at) == before == apart.recommend(at)
        assert apart.recommend(ASKED) == still
        guest = Request(history=(), n=30)
        mixed = [at, ASKED, guest, at]
        assert recommender.recommend_many(mixed) == [recommender.recommend(request) for request in mixed]

    def test_an_event_of_before_the_training_changes_nothing(
        self, tiny_model: FittedModel, store: SqlEventStore
    ) -> None:
        recommender, follower = live(tiny_model, store)
        store.append([Event(f"other{k}", "space-13", tiny_model.trained_until - k, "purchase") for k in range(50)])
        before = recommender.candidates([ASKED]).found
        follower.step()
        assert follower.sequence == store.head()
        after = recommender.candidates([ASKED]).found
        np.testing.assert_array_equal(after.columns["popularity:score"], before.columns["popularity:score"])

    def test_who_goes_back_to_an_older_model_reads_from_its_training_on(self, store: SqlEventStore) -> None:
        newer, older = (handmade_model(trained_until=TRAINED_UNTIL + shift) for shift in (world.DAY + 100.0, 0.0))
        store.append(
            [
                Event("x", "i05", TRAINED_UNTIL + 50.0, "view"),
                Event("x", "i06", TRAINED_UNTIL + world.DAY + 150.0, "view"),
            ]
        )
        _, follower = live(newer, store)
        follower.step()
        assert len(follower.counters) == 1
        back = LivePopularity(Consequences(older.fallback, older.catalogue.items, 500.0, LiveRanking(older)))
        follower.follow(back)
        follower.step()
        follower.publish()
        assert len(follower.counters) == 2
        assert back.view.state.signals is not None
        assert np.flatnonzero(back.view.state.signals.items.last_seen > TRAINED_UNTIL).tolist() == [5, 6]

    def test_the_thread_may_take_its_turn_while_it_is_told_of_the_older_model(self, store: SqlEventStore) -> None:
        class Interrupted(LiveCounters):
            """Something else happens just before `since` is set."""

            turn: Callable[[], object] = bool

            def __setattr__(self, name: str, value: object) -> None:
                if name == "since":
                    self.turn()
                super().__setattr__(name, value)

        newer, older = (handmade_model(trained_until=TRAINED_UNTIL + shift) for shift in (world.DAY + 100.0, 0.0))
        store.append([Event("x", "i05", TRAINED_UNTIL + shift, "view") for shift in (50.0, world.DAY + 150.0)])
        counts = Interrupted(lambda _: 1.0)
        before, back = (
            LivePopularity(Consequences(model.fallback, model.catalogue.items, 500.0, LiveRanking(model)))
            for model in (newer, older)
        )
        follower = Follower(store, StoreReader(store, store.settings), counts, [before])
        follower.step()
        assert len(counts) == 1
        counts.turn = follower.step
        follower.follow(back)
        follower.step()
        assert len(counts) == 2


class Growing(list[str]):
    """Ids to which another thread adds one whenever somebody asks how many there are."""

    def __len__(self) -> int:
        size = super().__len__()
        self.append(f"late-{size}")
        return size


def test_ids_that_come_while_rows_are_looked_up_are_looked_up_next_time() -> None:
    index = IdIndex([*"abc", *(f"late-{k}" for k in range(20))])
    ids, rows = Growing("abc"), _Rows(index)
    for _ in range(3):
        found = rows.of(ids)
        assert found.tolist() == [index.row(ids[k]) for k in range(len(found))]
    assert len(found) > 3


def test_rows_that_two_threads_look_up_are_right_for_both() -> None:
    """The one looks up all of them while the other is looking up what its model's index has got since."""

    class Interrupted(IdIndex):
        turn: Callable[[], object] = bool

        def rows(self, ids: object) -> np.ndarray:
            turn, self.turn = self.turn, bool
            turn()
            return super().rows(ids)  # type: ignore[arg-type]

    ids, before = ["a", "new"], _Rows(IdIndex(["a"]))
    assert before.of(ids).tolist() == [0, -1]
    index = Interrupted(["a", "new", "newer"])
    rows, other = before.over(index), list[list[int]]()

    def meanwhile() -> None:
        ids.append("newer")
        other.append(rows.of(ids).tolist())

    index.turn = meanwhile
    assert rows.of(ids).tolist() == [0, 1]
    assert other == [[0, 1, 2]]
    assert rows.of(ids).tolist() == [0, 1, 2]
