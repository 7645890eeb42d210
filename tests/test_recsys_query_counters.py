"""What users took after a query: counted by hand, bounded, forgotten, and the same on every worker."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handmade import handmade_model
from recsys.bundle import save_bundle
from recsys.query_counters import DAY, QueryCounters
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from recsys.search import Search
from recsys.serving import Serving
from recsys.stores.base import Event
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore
from waiting import eventually

NOW = 20_000 * DAY
WEIGHTS = {"view": 1.0, "impression": 0.0, "dismiss": -1.0}


def counters(max_events: int = 1000) -> QueryCounters:
    return QueryCounters(WEIGHTS.__getitem__, 30.0, max_events)


def event(item: str, query: str | None, *, user: str = "u", days_ago: float = 0.0, kind: str = "view") -> Event:
    return Event(user, item, NOW - days_ago * DAY, kind, query=query)


class TestCounting:
    def test_users_are_counted_however_the_query_is_written_and_however_often_they_click(self) -> None:
        counts = counters()
        rows = [event("a", "Red boots"), event("a", "boots  RED"), event("a", "red boot"), event("b", "red boots")]
        counts.add([*rows, event("a", "red boots", user="v")], NOW)
        assert counts.taken("BOOTS, red!") == {"a": 2.0, "b": 1.0}

    @pytest.mark.parametrize(
        "other",
        [
            event("a", None), event("a", ""), event("a", "!?"), event("a", "lamp"), event("a", "boots", days_ago=31),
            event("a", "boots", kind="impression"), event("a", "boots", kind="dismiss"),
        ],
    )  # fmt: skip
    def test_nothing_else_counts(self, other: Event) -> None:
        counts = counters()
        counts.add([other], NOW)
        assert counts.taken("boots") == {}

    def test_who_used_one_of_two_words_counts_an_eighth_where_both_are_as_rare(self) -> None:
        counts = counters()
        counts.add(
            [event("a", "red boots"), event("b", "red scarf", user="v"), event("c", "boots sale", user="w")], NOW
        )
        assert counts.taken("red boots") == pytest.approx({"a": 1.0, "b": 0.125, "c": 0.125})

    def test_a_word_of_many_queries_says_little(self) -> None:
        counts = counters()
        rows = [event("any", "the garden", user=f"u{k}") for k in range(90)]
        counts.add([*rows, *(event("lamp", "lamp", user=f"u{k}") for k in range(9))], NOW)
        taken = counts.taken("the lamp")
        assert taken["lamp"] == pytest.approx(0.25 * 9 * (1 / 19) / (1 / 19 + 1 / 100))
        assert taken["lamp"] > 0.5 * taken["any"]

    def test_a_word_of_too_many_queries_says_nothing_but_a_query_of_that_word_alone_does(self) -> None:
        counts = counters(5000)
        counts.add([event("any", "the garden", user=f"u{k}") for k in range(2100)], NOW)
        counts.add([event("one", "the", user="v")], NOW)
        assert counts.taken("the lamp") == {}
        assert counts.taken("the") == {"one": 1.0}

    def test_queries_of_any_length_are_taken(self) -> None:
        counts = counters()
        counts.add([event("a", "spade " * 200), event("b", " ".join(f"w{k}" for k in range(150)))], NOW)
        assert counts.taken("spade") == {"a": 1.0}
        assert set(counts.taken("w3")) == {"b"}
        assert counts.taken("w99") == {}


EVENTS = st.lists(
    st.builds(
        event,
        st.sampled_from("abc"),
        st.sampled_from(["red boots", "boots", "lamp", None]),
        user=st.sampled_from("uvw"),
        days_ago=st.sampled_from([0.0, 1.0, 29.0, 31.0]),
        kind=st.sampled_from(["view", "impression"]),
    ),
    max_size=30,
)
ASKED = ("red boots", "boots", "red lamp", "lamp")


@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_of_the_events_does_not_matter(events: list[Event], rng: random.Random) -> None:
    one, other = counters(), counters()
    one.add(events, NOW)
    other.add(rng.sample(events, len(events)), NOW)
    assert [one.taken(query) for query in ASKED] == [other.taken(query) for query in ASKED]


@given(EVENTS, st.integers(1, 8))
def test_what_has_left_leaves_no_trace(events: list[Event], max_events: int) -> None:
    """By number, by age and by forgetting: the counts are those of who never saw what is gone."""
    followed, fresh = counters(max_events), counters()
    followed.add(events, NOW)
    counted = [e for e in events if e.query and e.event == "view" and e.time >= NOW - 30 * DAY][-max_events:]
    assert len(followed) == len(counted)
    followed.forget("u")
    followed.expire(NOW + 2 * DAY)
    fresh.add([e for e in counted if e.user_id != "u" and e.time >= NOW - 28 * DAY], NOW)
    assert [followed.taken(query) for query in ASKED] == [fresh.taken(query) for query in ASKED]
    followed.expire(NOW + 99 * DAY)
    assert (len(followed), followed._num_events, followed._num_users, followed._totals) == (0, {}, {}, {})


class TestSearch:
    """Items i00 to i11 are titled `Title 0` to `Title 11`."""

    def search(self, **taken: float) -> Search:
        return Search(Recommender(handmade_model()), taken=lambda query: taken if query == "title 7" else {})

    def ids(self, answer: Recommendation) -> list[str]:
        return [item.item_id for item in answer.items]

    def test_without_clicks_the_answer_is_the_same_to_the_digit(self) -> None:
        plain = Search(Recommender(handmade_model())).recommend("title 7", Request(n=12))
        assert self.search().recommend("title 7", Request(n=12)) == plain
        assert self.search(gone=9.0).recommend("title 7", Request(n=12)) == plain, "no item of the catalogue"
        assert self.search(i03=9.0).recommend("title 8", Request(n=12)).items[0].sources == ("words",)

    def test_what_users_took_comes_first_once_there_are_enough_of_them(self) -> None:
        assert self.ids(self.search(i03=1.0).recommend("title 7", Request(n=2))) == ["i07", "i03"]
        first = self.search(i03=20.0, i04=5.0).recommend("title 7", Request(n=3))
        assert self.ids(first)[:2] == ["i03", "i07"]
        assert first.items[0].sources == ("words", "taken")

    def test_filters_hold_and_what_they_leave_out_has_no_say(self) -> None:
        books = Request(n=12, filters=(("category", "Books"),))
        plain = Search(Recommender(handmade_model())).recommend("title 7", books)
        assert self.search(i04=50.0).recommend("title 7", books) == plain
        assert "i03" not in self.ids(self.search(i03=50.0).recommend("title 7", Request(n=12, exclude=("i03",))))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    opened = SqlEventStore.open(str(tmp_path / "events.sqlite"), StoreSettings(poll_seconds=0.05))
    yield opened
    opened.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_bundle(handmade_model(), tmp_path / "bundles")
    return tmp_path / "bundles"


def found(serving: Serving, query: str = "winter") -> list[str]:
    answer = serving.snapshot.served.search.recommend(query, Request(history=(), n=12))
    return [item.item_id for item in answer.items]


def comes_to_find(serving: Serving, expected: list[str]) -> bool:
    return eventually(lambda: found(serving) == expected)


def test_another_worker_finds_what_users_took_and_forgets_it_again(root: Path, store: SqlEventStore) -> None:
    """No item has the word that is searched for."""
    worker = Serving(root, store, store.settings)
    worker.start()
    try:
        assert found(worker) == []
        time.sleep(0.2)
        at = time.time()
        store.append([Event("ann", "i08", at, "view", query="Winter"), Event("bob", "i05", at, "view", query="winter")])
        store.append([Event("carl", "i08", at, "view", query="winter")])
        assert comes_to_find(worker, ["i08", "i05"])
        store.forget("bob", time.time())
        assert comes_to_find(worker, ["i08"])
        store.delete_item("i08")
        assert comes_to_find(worker, [])
    finally:
        worker.stop()


def test_a_worker_that_starts_reads_the_searches_of_the_last_days(root: Path, store: SqlEventStore) -> None:
    """They are far behind the events that live counters hold."""
    days_ago = time.time() - 20 * DAY
    store.append([Event("ann", "i08", days_ago, "view", query="winter")])
    store.append([Event("ann", f"i{k:02d}", time.time(), "view") for k in range(5)])
    worker = Serving(root, store, StoreSettings())
    assert found(worker) == []
    assert worker.follower is not None
    worker.follower.step()
    assert found(worker) == ["i08"]
