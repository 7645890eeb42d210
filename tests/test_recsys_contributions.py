"""Contributions of features: they add up to the scores that were shown."""

from __future__ import annotations

import numpy as np
import pytest

from gated import gated_model
from handmade import handmade_model
from recsys import contributions as module
from recsys.contributions import contributions, group_of
from recsys.list_rows import ListRows
from recsys.recommender import Recommender
from recsys.requests import Request


@pytest.fixture(scope="module")
def requests(tiny_model):
    return [Request(str(k), user, n=10) for k, user in enumerate(tiny_model.users.ids[:12])]


@pytest.fixture(scope="module")
def answers(tiny_model, requests):
    return Recommender(tiny_model).recommend_many(requests)


@pytest.fixture(scope="module")
def lists(tiny_model, answers):
    return ListRows.of([[i.item_id for i in a.items] for a in answers], tiny_model.catalogue.items, 10)


def test_the_explained_items_are_the_shown_ones_with_their_scores(tiny_model, requests, answers, lists):
    """TreeSHAP is additive, so a row's values and the expected score make the score in the list."""
    shown = module._shown(Recommender(tiny_model), requests, lists.item_rows)
    scores = tiny_model.ranker.contributions(shown).sum(axis=1)
    ranked = [sorted(item.score for item in answer.items if item.sources != ("popularity",)) for answer in answers]
    explained = [sorted(scores[shown.query_rows == k].tolist()) for k in range(len(requests))]
    for own, found in zip(ranked, explained, strict=True):
        assert own[-3:] == pytest.approx(found[-3:], abs=2e-6)


def test_every_feature_and_every_group_is_named_once(tiny_model, requests, lists):
    found = contributions(tiny_model, requests, lists)
    names = tiny_model.ranker.names
    assert sorted(row["feature"] for row in found["features"]) == sorted(names)
    assert {row["group"] for row in found["groups"]} == {group_of(name) for name in names}
    assert sum(row["num_features"] for row in found["groups"]) == len(names)
    for rows in (found["features"], found["groups"]):
        assert sum(row["gain_share"] for row in rows) == pytest.approx(1)
        magnitudes = [row["mean_abs"] for row in rows]
        assert magnitudes == sorted(magnitudes, reverse=True)


def test_a_group_is_added_up_before_its_magnitude_is_taken(tiny_model, requests, lists):
    found = contributions(tiny_model, requests, lists)
    parts = {group["group"]: 0.0 for group in found["groups"]}
    for row in found["features"]:
        parts[row["group"]] += row["mean_abs"]
    assert all(group["mean_abs"] <= parts[group["group"]] + 1e-12 for group in found["groups"])


def test_the_direction_says_what_raises_the_score(tiny_model, requests, lists):
    """In the tiny world the next book of the shelf is right: a higher score of a source is better, a higher rank
    number worse."""
    rows = contributions(tiny_model, requests, lists)["features"]
    moved = [row for row in rows if row["mean_abs"] > 0.01 and row["direction"] is not None]
    assert {row["direction"] > 0 for row in moved if row["feature"].endswith(":score")} == {True}
    assert {row["direction"] > 0 for row in moved if row["feature"].endswith(":rank")} <= {False}


def test_a_ranker_that_lacks_features_is_judged_by_its_own(tiny_model, requests):
    """Gating drops features: those that are left stand in other columns of the matrix."""
    model = gated_model(tiny_model)
    recommender = Recommender(model)
    answers = recommender.recommend_many(requests)
    lists = ListRows.of([[i.item_id for i in a.items] for a in answers], model.catalogue.items, 10)
    shown = module._shown(recommender, requests, lists.item_rows)
    shares = model.ranker.contributions(shown)
    expected = {
        name: module._correlation(shown.column(name).astype(np.float64), shares[:, k])
        for k, name in enumerate(model.ranker.names)
    }
    found = {row["feature"]: row["direction"] for row in contributions(model, requests, lists)["features"]}
    assert found == pytest.approx(expected)
    assert any(direction is not None for direction in found.values())


def test_what_does_not_vary_has_no_direction():
    assert module._correlation(np.array([1.0, 2.0, np.nan]), np.array([0.5, 0.5, 9.0])) is None
    assert module._correlation(np.array([np.nan]), np.array([0.5])) is None
    assert module._correlation(np.array([1.0, 2.0, 3.0]), np.array([6.0, 4.0, 2.0])) == pytest.approx(-1)


def test_only_so_many_lists_are_explained(tiny_model, requests, lists, monkeypatch):
    monkeypatch.setattr(module, "MAX_LISTS", 3)
    found = contributions(tiny_model, requests, lists)
    assert (found["lists"], found["items"]) == (3, 30)


def test_without_a_forest_there_is_nothing_to_explain(requests, lists):
    assert contributions(handmade_model(), requests, lists) is None


def test_seen_items_do_not_come_back_when_the_request_lets_them_in(tiny_model):
    """The items explained are those of the list, whatever else was a candidate."""
    user = str(tiny_model.users.ids[0])
    request = Request("1", user, n=10, exclude_seen=False)
    answer = Recommender(tiny_model).recommend(request)
    lists = ListRows.of([[i.item_id for i in answer.items]], tiny_model.catalogue.items, 10)
    shown = module._shown(Recommender(tiny_model), [request], lists.item_rows)
    scores = tiny_model.ranker.contributions(shown).sum(axis=1)
    assert np.max(scores) == pytest.approx(answer.items[0].score, abs=2e-6)
