"""Dismissals: what the user sends away stays away, and says something of what is like it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import world
from features.builder import FeatureBuilder, FeatureMatrix, FeatureSettings
from features.grid import on_grid
from features.histories import Histories
from features.interactions import EventSettings, event_weights, signed_weights
from features.runs import Pairs
from features.tables import Catalogue, Dataset, Events, IdIndex
from handmade import NUM_ITEMS as NUM_HANDMADE
from handmade import handmade_model
from recsys.asked_history import _dismissed
from recsys.evaluation_result import per_query
from recsys.live_items import ItemChange, ItemEditor
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import HistoryEvent, Request
from recsys.settings import Settings, settings_from
from recsys.splits import split
from recsys.training import train

NUM_ITEMS = 4
EMBEDDINGS = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, -1]], np.float32)
CATEGORIES = (("lamp",), ("lamp",), ("sofa",), ("sofa",))


def events(*rows: tuple[int, int, str, float]) -> Events:
    kinds = ("view", "dismiss", "cancel")
    users, items, names, times = zip(*rows, strict=True)
    return Events(
        np.array(users, np.int32), np.array(items, np.int32), np.array([kinds.index(k) for k in names], np.int16),
        np.array(times, float), np.ones(len(rows), np.float32), kinds, "timestamp",
    )  # fmt: skip


def history(*touches: tuple[int, float, float]) -> Histories:
    """One user's touches: item, time and weight."""
    rows, times, weights = (np.array(part) for part in zip(*touches, strict=True))
    one = np.array([True])
    return Histories.build([rows.astype(np.int64)], [times], [weights], np.array([99.0]), NUM_ITEMS, one)


def built(known: Events, asked: Histories, *, text: bool = True, has_dismissals: bool = True) -> FeatureMatrix:
    frame = pd.DataFrame({
        "item_id": list("abcd"), "category": list(CATEGORIES), "brand": [()] * 4, "price": [1.0, 2, 3, 4],
        "published_at": [np.nan] * 4,
    })  # fmt: skip
    embeddings = on_grid(EMBEDDINGS, items=True) if text else None
    weights = signed_weights(known, EventSettings())
    catalogue = Catalogue(IdIndex("abcd"), frame, ())
    builder = FeatureBuilder.fit(
        catalogue, known, weights, embeddings, FeatureSettings(), has_dismissals=has_dismissals
    )
    everything = Pairs(np.zeros(NUM_ITEMS, np.int64), np.arange(NUM_ITEMS))
    return builder.build(asked, everything, {})


def test_what_is_not_wanted_weighs_less_than_nothing_and_shows_no_interest() -> None:
    known = events((0, 0, "view", 1), (0, 1, "dismiss", 2), (0, 2, "cancel", 3))
    assert signed_weights(known, EventSettings()).tolist() == [1, -1, 0]
    assert event_weights(known, EventSettings()).tolist() == [1, 0, 0]


def test_the_last_touch_says_whether_an_item_is_dismissed() -> None:
    asked = history((0, 1, 1.0), (1, 2, -1.0), (0, 3, -1.0), (2, 4, -1.0), (2, 5, 1.0), (3, 6, 0.0))
    assert asked.dismissed.indices.tolist() == [1, 0], "the oldest first"
    assert asked.dismissed_items.row(0).tolist() == [0, 1]
    assert asked.weighted(None).indices.tolist() == [0, 2], "what was liked before stays a sign of taste"


@pytest.mark.parametrize("time", [2, 3])
def test_what_says_nothing_takes_no_dismissal_back(time: float) -> None:
    asked = history((0, 1, 1.0), (0, 2, -1.0), (0, time, 0.0), (1, 1, 0.0))
    assert asked.dismissed_items.row(0).tolist() == [0]


@given(st.lists(st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(0, 5), st.sampled_from([-1.0, 0.0, 0.5, 1.0]))))
def test_what_a_list_leaves_out_is_what_the_features_call_dismissed(touches: list[tuple[int, float, float]]) -> None:
    """The service looks at all events of a user, the features at the newest: one rule, in any order of the file."""
    if touches:
        rows, times, weights = (np.array(part) for part in zip(*touches, strict=True))
        found = _dismissed((rows.astype(np.int64), times.astype(float), weights.astype(np.float32)))
        assert found.tolist() == history(*touches).dismissed_items.row(0).tolist()


@pytest.mark.parametrize("first", [1.0, -1.0])
def test_who_takes_and_dismisses_at_one_time_has_taken(first: float) -> None:
    assert not len(history((0, 1, -1.0), (0, 2, first), (0, 2, -first)).dismissed.indices)


def test_the_features_say_how_unwanted_an_item_is_and_how_like_what_was_sent_away() -> None:
    known = events((0, 0, "view", 1), (1, 0, "view", 2), (0, 3, "dismiss", 3), (1, 3, "dismiss", 4), (2, 3, "view", 5))
    matrix = built(known, history((0, 6, 1.0), (2, 7, -1.0)))
    usual = 2 / 5
    expected = [(0 + 5 * usual) / 7, np.nan, np.nan, (2 + 5 * usual) / 8]
    np.testing.assert_allclose(matrix.column("dismissed:share_of_item"), expected, rtol=1e-6)
    np.testing.assert_allclose(matrix.column("dismissed:text"), [0, 0.8, 1, -1], atol=5e-3)
    np.testing.assert_allclose(matrix.column("dismissed:share:category"), [0, 0, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(matrix.column("dismissed:items"), np.log1p([1, 1, 1, 1]), rtol=1e-6)


def test_who_dismissed_nothing_is_near_to_nothing_dismissed() -> None:
    matrix = built(events((0, 0, "view", 1), (0, 3, "dismiss", 3)), history((0, 6, 1.0)))
    assert np.isnan(matrix.column("dismissed:text")).all()
    assert not matrix.column("dismissed:share:category").any()
    assert not matrix.column("dismissed:items").any()


def test_data_without_dismissals_have_no_such_features_and_others_always() -> None:
    """Also of what was known before the first dismissal: rankers learn from several times."""
    known, asked = events((0, 0, "view", 1), (0, 3, "cancel", 3)), history((2, 7, -1.0))
    assert not [name for name in built(known, asked, has_dismissals=False).names if name.startswith("dismissed")]
    shares = built(known, asked).column("dismissed:share_of_item")
    np.testing.assert_array_equal(shares, [0, np.nan, np.nan, np.nan])


def test_dismissals_may_begin_with_the_newest_events(tmp_path: Path) -> None:
    rows = world.event_rows()
    for row in sorted(rows, key=lambda row: int(row["timestamp"]))[-3:]:
        row["event"] = "dismiss"
    world.write_table(tmp_path / "items.csv", world.item_rows())
    world.write_table(tmp_path / "events.csv", rows)
    model = train(Dataset.load(tmp_path), settings_from(world.TINY))
    assert "dismissed:items" in getattr(model.ranker, "names", ())


def test_a_new_item_is_as_an_untouched_one_was() -> None:
    model = handmade_model()
    share = np.where(np.arange(NUM_HANDMADE) < 3, np.float32(0.2), np.float32(np.nan))
    items = dataclasses.replace(model.features.items, dismissed_share=share)
    model = dataclasses.replace(model, features=model.features.with_items(items))
    changed = ItemEditor(model, None).with_items(model, [ItemChange("new", {"title": ""})])
    np.testing.assert_array_equal(changed.features.items.dismissed_share, [*share, np.nan])


def test_without_text_the_others_are_there() -> None:
    found = built(events((0, 0, "view", 1), (0, 3, "dismiss", 3)), history((2, 7, -1.0)), text=False).names
    assert "dismissed:share_of_item" in found
    assert "dismissed:text" not in found


NUM_SHELVES, PER_SHELF, NUM_USERS = 6, 8, 400


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Every user likes two of six shelves: takes an item of the one, sends away an item of each of the four others,
    and takes two more of the two. Until then the other one is told by the dismissals alone.
    """
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    items = [
        {"item_id": f"i{k}", "category": f"shelf {k // PER_SHELF}", "title": ""} for k in range(NUM_SHELVES * PER_SHELF)
    ]
    rows = []
    for user in range(NUM_USERS):
        one, other, *unwanted = rng.permutation(NUM_SHELVES).tolist()
        acts = [(one, "purchase"), *((shelf, "dismiss") for shelf in unwanted), (other, "purchase"), (one, "purchase")]
        for step, (shelf, kind) in enumerate(acts):
            item, time = shelf * PER_SHELF + int(rng.integers(PER_SHELF)), world.START + user * 5000 + step * 600
            rows.append({"user_id": f"u{user}", "item_id": f"i{item}", "event": kind, "timestamp": str(time)})
    world.write_table(folder / "items.csv", items)
    world.write_table(folder / "events.csv", rows)
    return Dataset.load(folder)


def settings_of_shop(dismiss: float) -> Settings:
    return settings_from(world.TINY | {
        "events": {"weights": {"dismiss": dismiss}},
        "sources": ["popularity", "linear", "transitions"],
        "retrieval": world.TINY["retrieval"] | {"per_source": 48},
        "lambdamart": world.TINY["lambdamart"] | {"num_trees": 60},
    })  # fmt: skip


def test_the_ranker_learns_from_dismissals(shop: Dataset) -> None:
    found = {}
    for weight in (-1.0, 0.0):
        task = split(shop, "live")
        recommender = Recommender(train(task.train, settings_of_shop(weight)))
        lists = [[item.item_id for item in answer.items] for answer in recommender.recommend_many(task.requests)]
        found[weight] = float(np.nanmean(per_query(lists, task)["ndcg@10"]))
    assert found[-1.0] > 1.2 * found[0.0]


def test_what_was_dismissed_is_in_no_list_until_it_is_taken(tiny_model: FittedModel) -> None:
    recommender = Recommender(tiny_model)
    taken = [HistoryEvent(f"space-{k:02d}", "purchase", float(world.START + k * world.DAY)) for k in range(3)]
    sent_away = HistoryEvent("space-01", "dismiss", float(world.START + 5 * world.DAY))
    again = HistoryEvent("space-01", "purchase", float(world.START + 6 * world.DAY))

    def listed(*events: HistoryEvent) -> set[str]:
        request = Request(history=events, n=len(world.item_rows()), exclude_seen=False)
        return {item.item_id for item in recommender.recommend(request).items}

    assert "space-01" in listed(*taken)
    assert listed(*taken) - listed(*taken, sent_away) == {"space-01"}
    assert listed(*taken, sent_away, again) == listed(*taken)
    cancelled = HistoryEvent("space-01", "cancel", float(world.START + 6 * world.DAY))
    assert listed(*taken, sent_away, cancelled) == listed(*taken, sent_away)
    at_one_time = HistoryEvent("space-01", "purchase", sent_away.timestamp)
    assert listed(*taken, sent_away, at_one_time) == listed(*taken, at_one_time, sent_away) == listed(*taken)
    named = Request(history=(*taken, sent_away), among=("space-01", "space-09"), n=2, exclude_seen=False)
    assert {item.item_id for item in recommender.recommend(named).items} == {"space-01", "space-09"}
