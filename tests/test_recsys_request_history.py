"""A user's history: what the bundle knows and what a real store adds, each event once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handmade import TRAINED_UNTIL, handmade_model
from recsys.model import FittedModel, StoredHistories
from recsys.recommender import Recommender
from recsys.request_history import HistoryReader, StoreReader
from recsys.requests import HistoryEvent, Request
from recsys.stores.base import Event
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore

AFTER = TRAINED_UNTIL + 100.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    opened = SqlEventStore.open(str(tmp_path / "events.sqlite"), StoreSettings(read_timeout=0.1, retry_after=0.0))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def model() -> FittedModel:
    """ann took i00, i01, i02; bob i00, i01; all by the kind "view" of weight 1, before TRAINED_UNTIL."""
    return handmade_model()


def items(model: FittedModel, store: SqlEventStore, user: str, at: float = AFTER + 50, *, strict: bool = True) -> list:
    known = HistoryReader(model, StoreReader(store)).read(user, at, strict=strict)
    return [str(model.catalogue.items.ids[row]) for row in known.events[0]]


def test_what_came_since_is_added_in_time_order(model: FittedModel, store: SqlEventStore) -> None:
    store.append([Event("ann", "i05", AFTER + 1), Event("ann", "i07", AFTER), Event("bob", "i09", AFTER)])
    assert items(model, store, "ann") == ["i00", "i01", "i02", "i07", "i05"]


def test_an_event_that_the_bundle_was_trained_on_counts_once(model: FittedModel, store: SqlEventStore) -> None:
    stored = model.histories
    same = [Event("ann", f"i{stored.item_rows[k]:02d}", float(stored.times[k]), "view") for k in range(3)]
    store.append([*same, Event("ann", "i02", AFTER, "view")])
    assert items(model, store, "ann") == ["i00", "i01", "i02", "i02"]


def test_only_what_happened_before_is_known(model: FittedModel, store: SqlEventStore) -> None:
    store.append([Event("ann", "i05", AFTER), Event("ann", "i06", AFTER + 1)])
    assert items(model, store, "ann", AFTER + 1)[3:] == ["i05"]
    assert items(model, store, "ann", AFTER + 1, strict=False)[3:] == ["i05", "i06"], "a clock that is ahead of ours"


def test_a_user_whom_only_the_store_knows(model: FittedModel, store: SqlEventStore) -> None:
    store.append(
        [Event("new", "i05", AFTER), Event("new", "elsewhere", AFTER), Event("new", "i06", AFTER, "impression")]
    )
    known = HistoryReader(model, StoreReader(store)).read("new", AFTER + 1, strict=True)
    assert (known.events[0].tolist(), known.known_user, known.unknown) == ([5], True, 1)


def test_a_forgotten_user_has_no_past_in_the_bundle_either(model: FittedModel, store: SqlEventStore) -> None:
    store.append([Event("ann", "i05", AFTER)])
    store.forget("ann", at=AFTER + 10)
    assert items(model, store, "ann") == []
    store.append([Event("ann", "i08", AFTER + 20)])
    assert items(model, store, "ann") == ["i08"]


def test_what_a_bundle_learned_after_the_forgetting_counts(model: FittedModel, store: SqlEventStore) -> None:
    store.forget("ann", at=float(model.histories.times[1]))
    assert items(model, store, "ann") == ["i01", "i02"]


def test_without_a_clock_the_store_comes_behind_the_bundle(model: FittedModel, store: SqlEventStore) -> None:
    old = model.histories
    positions = StoredHistories(old.indptr, old.item_rows, old.times * 0 + [0, 1, 2, 0, 1, 0], old.weights, False)
    clockless = handmade_model(histories=positions)
    store.append([Event("ann", "i05", 10.0), Event("ann", "i06", 10.0), Event("ann", "i07", 11.0)])
    known = HistoryReader(clockless, StoreReader(store)).read("ann", 0.0, strict=False)
    assert known.events[0].tolist() == [0, 1, 2, 5, 6, 7]
    assert known.events[1].tolist() == [0, 1, 2, 3, 3, 4]
    store.forget("ann", at=12.0)
    assert items(clockless, store, "ann") == []


def test_the_next_list_leaves_out_what_was_stored(model: FittedModel, store: SqlEventStore) -> None:
    recommender = Recommender.live(model, StoreReader(store))
    request = Request(user="ann", n=12)
    assert "i05" in [item.item_id for item in recommender.recommend(request).items]
    store.append([Event("ann", "i05", AFTER)])
    assert "i05" not in [item.item_id for item in recommender.recommend(request).items]


def test_a_stored_event_is_worth_what_a_sent_one_is(model: FittedModel, store: SqlEventStore) -> None:
    """The store only saves the storefront from sending the history along."""
    store.append([Event("new", "i05", AFTER, "view"), Event("new", "i06", AFTER + 1, "view")])
    stored = Recommender.live(model, StoreReader(store)).recommend(Request(user="new", at=AFTER + 9))
    history = (HistoryEvent("i05", "view", AFTER), HistoryEvent("i06", "view", AFTER + 1))
    sent = Recommender.live(model).recommend(Request(user="new", at=AFTER + 9, history=history))
    assert stored == sent
    assert stored.strategy == "by_score"


def test_a_list_without_the_store_says_so_and_recovers(
    model: FittedModel, store: SqlEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([Event("ann", "i05", AFTER)])
    reader = StoreReader(store, store.settings)
    recommender = Recommender.live(model, reader)
    path = Path(store._url.database or "")
    hidden = path.with_suffix(".hidden")
    store.close()
    path.rename(hidden)
    path.mkdir()  # the file can't be opened now
    answer = recommender.recommend(Request(user="ann", n=12))
    assert "can't be used" in answer.degraded
    assert {"i00", "i01", "i02"}.isdisjoint(item.item_id for item in answer.items), "the bundle's history still counts"
    assert len(answer.items) == 9
    path.rmdir()
    hidden.rename(path)
    answer = recommender.recommend(Request(user="ann", n=12))
    assert answer.degraded == ""
    assert len(answer.items) == 8


def test_a_clock_that_went_back_hides_nothing_of_what_is_known(model: FittedModel, store: SqlEventStore) -> None:
    """Of the bundle or of the store; a time that a request names is taken at its word all the same."""
    recommender = Recommender(model, clock=lambda: AFTER - 365 * 86_400.0, store=StoreReader(store))
    store.append([Event("ann", "i05", AFTER)])
    answer = recommender.recommend(Request(user="ann", n=12))
    assert sorted(item.item_id for item in answer.items) == [f"i{k:02d}" for k in (3, 4, 6, 7, 8, 9, 10, 11)]
    then = recommender.recommend(Request(user="ann", n=12, at=AFTER - 365 * 86_400.0))
    assert (then.strategy, len(then.items)) == ("popular", 12)


def test_who_was_forgotten_stays_so_while_the_store_is_away(model: FittedModel, tmp_path: Path) -> None:
    away = SqlEventStore(str(tmp_path / "nowhere" / "events.sqlite"), StoreSettings(write_timeout=0.05))
    reader = StoreReader(away, away.settings, forgotten={"ann": AFTER})
    known = HistoryReader(model, reader).read("ann", AFTER + 1, strict=True)
    assert (len(known.events[0]), known.known_user) == (0, False)
    assert known.degraded


def test_while_the_store_is_away_only_one_request_in_a_while_waits_for_it(model: FittedModel, tmp_path: Path) -> None:
    asked = []

    class Counting(SqlEventStore):
        def history(self, *arguments: object, **options: object):  # type: ignore[no-untyped-def]
            asked.append(arguments)
            return super().history(*arguments, **options)  # type: ignore[arg-type]

    away = Counting(str(tmp_path / "nowhere" / "events.sqlite"), StoreSettings(write_timeout=0.05, retry_after=60.0))
    reader = HistoryReader(model, StoreReader(away, away.settings))
    for _ in range(5):
        assert reader.read("ann", AFTER, strict=True).degraded
    assert len(asked) == 1


def test_while_somebody_follows_the_store_no_request_waits_for_it(model: FittedModel, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("missing")
    store = SqlEventStore(str(tmp_path / "link" / "events.sqlite"), StoreSettings(retry_after=0.0))
    reader = StoreReader(store, store.settings, followed=True)
    histories = HistoryReader(model, reader)
    assert histories.read("ann", AFTER, strict=True).degraded
    (tmp_path / "new").symlink_to("real")
    (tmp_path / "new").replace(tmp_path / "link")
    assert histories.read("ann", AFTER, strict=True).degraded, "only the follower asks"
    reader.back()
    assert not histories.read("ann", AFTER, strict=True).degraded
    store.close()


def test_a_store_that_cannot_be_opened_is_given_up_at_once(model: FittedModel, tmp_path: Path) -> None:
    store = SqlEventStore(str(tmp_path / "nowhere" / "events.sqlite"), StoreSettings(write_timeout=60.0))
    started = time.monotonic()
    assert HistoryReader(model, StoreReader(store)).read("ann", AFTER, strict=True).degraded
    assert time.monotonic() - started < 10.0
