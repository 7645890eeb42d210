"""Similar items and their groups, with answers known by reasoning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import world
from handmade import handmade_model
from recsys.errors import RequestError
from recsys.fusion import Ranking, fused
from recsys.item_groups import group_key, groups_of
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.similar import Similar


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tea Towel, RED", "tea towel - blue"),
        ("T-Shirt Café XL", "t shirt cafe (m)"),
        ("Vase 500 ml", "Vase 250ml"),
        ("Sneaker size 42", "Sneaker size 43"),
        ("Lamp colour: Navy", "Lamp Color ivory"),
    ],
)
def test_colours_and_sizes_do_not_make_another_product(one: str, other: str) -> None:
    assert group_key(one) == group_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Dune 1", "Dune 2"), ("Red", "Blue"), ("Vase", "Bowl"), ("Area 51", "Area 52")]
)
def test_other_words_and_numbers_do(one: str, other: str) -> None:
    assert group_key(one) != group_key(other)


def test_items_without_a_title_are_alone() -> None:
    groups = groups_of(["", "Vase", "", "red vase"]).tolist()
    assert groups[1] == groups[3]
    assert len(set(groups)) == 3
    assert groups_of(["", "blue vase"], rows=[2, 9]).tolist() == groups[2:]


def test_ranks_are_fused_by_hand() -> None:
    """Row 5: 1 / 61 + 1 / 62 of 2 / 61; rows 3 and 4 were each first or second once."""
    both = fused([Ranking("a", 1, np.array([5, 4])), Ranking("b", 1, np.array([3, 5]))], np.arange(9))
    assert both.item_rows.tolist() == [5, 3, 4]
    np.testing.assert_allclose(both.scores, [(1 + 61 / 62) / 2, 0.5, 61 / 62 / 2], atol=1e-6)
    assert both.names == [("a", "b"), ("b",), ("a",)]
    assert len(fused([], np.arange(9)).item_rows) == 0


def test_the_next_books_of_the_shelf_are_like_a_book(tiny_model: FittedModel) -> None:
    similar = Similar(Recommender(tiny_model))
    answer = similar.recommend("space-03", Request(n=5))
    assert answer.strategy == "similar"
    assert all(item.item_id.startswith("space") for item in answer.items)
    assert "space-03" not in {item.item_id for item in answer.items}
    assert [item.rank for item in answer.items] == [1, 2, 3, 4, 5]
    assert {item.item_id for item in answer.items} & {"space-02", "space-04"}


def test_an_item_nobody_touched_is_compared_by_its_text() -> None:
    model = handmade_model()
    answer = Similar(Recommender(model)).recommend("i09", Request(n=11))
    embeddings = model.features.pairs.embeddings
    nearest = [f"i{row:02d}" for row in np.argsort(-(embeddings @ embeddings[9])) if row != 9]
    assert [item.item_id for item in answer.items] == nearest
    assert {item.sources for item in answer.items} == {("text_profile",)}
    assert "text alone" in answer.reason


def test_behaviour_counts_as_far_as_there_is_any() -> None:
    """i00 was taken three times, and with i01 and i02, which nothing in the random texts says."""
    answer = Similar(Recommender(handmade_model())).recommend("i00", Request(n=11))
    assert answer.reason == ""
    sources = {item.item_id: item.sources for item in answer.items}
    assert "linear" in sources["i01"]


def test_variants_come_once_and_the_items_own_never() -> None:
    model = handmade_model()
    titles = ["Vase red", "Vase blue", "Cup red", "Cup blue", "Cup green", *(f"Title {k}" for k in range(5, 12))]
    frame = model.catalogue.frame.assign(title=titles)
    model = dataclasses.replace(model, catalogue=dataclasses.replace(model.catalogue, frame=frame))
    answer = Similar(Recommender(model)).recommend("i00", Request(n=12))
    listed = [item.title for item in answer.items]
    assert "Vase blue" not in listed
    assert sum(title.startswith("Cup") for title in listed) == 1
    assert len(listed) == 8


def test_filters_and_exclusions_hold(tiny_model: FittedModel) -> None:
    similar = Similar(Recommender(tiny_model))
    request = Request(n=20, filters=(("category", "orbit"),), exclude=("space-04",))
    ids = {item.item_id for item in similar.recommend("space-03", request).items}
    assert ids == {world.item_id("space", k) for k in range(1, 20, 3)} - {"space-04"}


def test_a_user_changes_the_order_and_not_the_items(tiny_model: FittedModel) -> None:
    similar = Similar(Recommender(tiny_model))
    plain, own = (similar.recommend("space-03", Request(n=40, user=user)).items for user in (None, "u004"))
    assert sorted(item.item_id for item in plain) == sorted(item.item_id for item in own)
    assert [item.item_id for item in plain] != [item.item_id for item in own]
    stranger = similar.recommend("space-03", Request(n=40, user="nobody")).items
    assert [item.item_id for item in stranger] == [item.item_id for item in plain]


def test_a_list_of_n_is_the_beginning_of_a_longer_one(tiny_model: FittedModel) -> None:
    similar = Similar(Recommender(tiny_model))
    longest = similar.recommend("space-03", Request(n=30, user="u004")).items
    for n in (1, 7, 20):
        assert similar.recommend("space-03", Request(n=n, user="u004")).items == longest[:n]


def test_an_unknown_item_is_named() -> None:
    with pytest.raises(RequestError, match="'nowhere'") as caught:
        Similar(Recommender(handmade_model())).recommend("nowhere", Request())
    assert caught.value.parameter == "item"
