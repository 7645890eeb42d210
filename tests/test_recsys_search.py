"""Search: words, near misses, fields, meaning and the user, with answers known by reasoning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from handmade import handmade_model
from recsys.changed_index import ChangedIndex
from recsys.errors import RequestError
from recsys.lexical import LexicalIndex
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from recsys.search import Search
from recsys.served import Served
from recsys.words import words

TITLES = [
    "Garden spade", "Garden hose", "Steel spade for gardeners", "Café table", "Planet Earth", "Roses", "Copper kettle",
    "Kettle", "", "Żółw", "Table", "Lamp",
]  # fmt: skip
TEXTS = ["", "", "", "", "a globe of the garden planet", "", "", "for a steel table", "", "", "", ""]


@pytest.fixture(scope="module")
def model() -> FittedModel:
    model = handmade_model()
    frame = model.catalogue.frame.assign(title=TITLES, description=TEXTS, brand="")
    return dataclasses.replace(model, catalogue=dataclasses.replace(model.catalogue, frame=frame))


@pytest.fixture(scope="module")
def search(model: FittedModel) -> Search:
    return Search(Recommender(model))


def titles(answer: Recommendation) -> list[str]:
    return [item.title for item in answer.items]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("kettle", ["Kettle", "Copper kettle"]),
        ("ROSE", ["Roses"]),
        ("cafe", ["Café table"]),
        ("zolw żółw", ["Żółw"]),
        ("garden spade", ["Garden spade"]),
        ("ketle", ["Kettle", "Copper kettle"]),
        ("plannet", ["Planet Earth"]),
        ("steel table", ["Kettle"]),
    ],
)
def test_the_best_match_is_first(search: Search, query: str, expected: list[str]) -> None:
    assert titles(search.recommend(query, Request(n=12)))[: len(expected)] == expected


def test_an_item_with_all_words_comes_before_one_with_some(search: Search) -> None:
    found = titles(search.recommend("garden spade", Request(n=12)))
    assert found[0] == "Garden spade"
    assert set(found) >= {"Garden hose", "Steel spade for gardeners", "Planet Earth"}


def test_what_nothing_matches_is_an_empty_list_and_says_so(search: Search) -> None:
    answer = search.recommend("xylophone", Request())
    assert answer.items == ()
    assert "no item" in answer.reason


@pytest.mark.parametrize("query", ["", "  ", "\t", "\u2028"])
def test_an_empty_query_is_refused(search: Search, query: str) -> None:
    with pytest.raises(RequestError) as caught:
        search.recommend(query, Request())
    assert caught.value.parameter == "q"


@pytest.mark.parametrize("query", ["!!!", "a" * 5000, "spade " * 500, "🐢"])
def test_any_query_is_answered(search: Search, query: str) -> None:
    assert search.recommend(query, Request()).strategy == "search"


def test_filters_and_exclusions_hold(search: Search) -> None:
    assert titles(search.recommend("kettle", Request(filters=(("category", "Books"),)))) == ["Kettle"]
    assert titles(search.recommend("kettle", Request(exclude=("i07",)))) == ["Copper kettle"]


def test_meaning_finds_what_words_miss(model: FittedModel) -> None:
    embeddings = model.features.pairs.embeddings

    def encode(query: str) -> np.ndarray:
        return np.asarray(embeddings[11 if query == "light" else 3])

    answer = Search(Recommender(model), encode).recommend("light", Request(n=3))
    assert answer.items[0].title == "Lamp"
    assert answer.items[0].sources == ("meaning",)
    both = Search(Recommender(model), encode).recommend("cafe", Request(n=3)).items[0]
    assert (both.title, both.sources, both.score) == ("Café table", ("words", "meaning"), 1.0)


def test_a_user_changes_the_order_and_not_the_items(tiny_model: FittedModel) -> None:
    search = Search(Recommender(tiny_model))
    plain, own = (search.recommend("book rose", Request(n=40, user=user)).items for user in (None, "u001"))
    assert sorted(item.item_id for item in plain) == sorted(item.item_id for item in own)
    assert [item.item_id for item in plain] != [item.item_id for item in own]


def test_words_compare_without_case_accents_and_plurals() -> None:
    assert words("Berries, GLASSES of CAFÉS; bus dress s") == ["berry", "glasse", "of", "cafe", "bus", "dress", "s"]


class TestChangedItems:
    """The index of a moment ago serves a catalogue in which a few items are others."""

    @staticmethod
    def changed(model: FittedModel, row: int, title: str) -> FittedModel:
        frame = model.catalogue.frame.copy()
        frame.loc[row, "title"] = title
        return dataclasses.replace(model, catalogue=dataclasses.replace(model.catalogue, frame=frame))

    @staticmethod
    def after(before: Search, model: FittedModel, *rows: int) -> Search:
        ids = [str(model.catalogue.items.ids[row]) for row in rows]
        left = Served(before._recommender, carried=before._carried)
        left.__dict__["search"] = before
        return Search(Recommender(model), carried=left.left(ids))

    def test_new_words_find_the_item_and_old_ones_do_not(self, model: FittedModel) -> None:
        before = Search(Recommender(model))
        before.warm_up()
        search = self.after(before, self.changed(model, 6, "Zinc bucket"), 6)
        assert titles(search.recommend("zinc", Request(history=(), n=5))) == ["Zinc bucket"]
        assert titles(search.recommend("bucet", Request(history=(), n=5))) == ["Zinc bucket"]
        assert titles(search.recommend("copper", Request(history=(), n=5))) == []
        assert titles(search.recommend("kettle", Request(history=(), n=5))) == ["Kettle"]

    def test_what_has_not_changed_is_found_as_before(self, model: FittedModel) -> None:
        before = Search(Recommender(model))
        asked = Request(history=(), n=9)
        expected = {query: titles(before.recommend(query, asked)) for query in ("garden", "spade", "steel", "tabel")}
        search = self.after(before, self.changed(model, 11, "Quilt"), 11)
        assert {query: titles(search.recommend(query, asked)) for query in expected} == expected

    def test_changes_that_nobody_searched_between_are_not_lost(self, model: FittedModel) -> None:
        before = Search(Recommender(model))
        before.warm_up()
        once = self.changed(model, 6, "Zinc bucket")
        twice = self.changed(once, 7, "Yurt")
        search = self.after(self.after(before, once, 6), twice, 7)
        assert titles(search.recommend("zinc", Request(history=(), n=5))) == ["Zinc bucket"]
        assert titles(search.recommend("yurt", Request(history=(), n=5))) == ["Yurt"]
        assert titles(search.recommend("kettle", Request(history=(), n=5))) == []

    def test_words_weigh_what_they_weigh_where_the_changes_are_made_part_of_the_index(self, model: FittedModel) -> None:
        """Whether they came at once or one by one; for known words, new ones and misspelt ones of both kinds."""
        base = LexicalIndex.of(model.catalogue)
        beside, changed = ChangedIndex.of(base), model
        for row, title in [(3, "Garden gnome"), (0, "Zinc spade"), (3, "Zinc kettle"), (7, "")]:
            changed = self.changed(changed, row, title)
            made = beside.with_rows(changed.catalogue, np.array([row]))
            assert isinstance(made, ChangedIndex)
            beside = made
        rows = np.array([0, 3, 7])
        at_once = ChangedIndex.of(base).with_rows(changed.catalogue, rows)
        merged = base.merged(changed.catalogue, rows)
        for query in ("garden", "zinc spade", "gnome kettle", "zinx", "gardn", "ketle tabel", "cafe", "roses lamp"):
            expected = merged.scores(query)
            np.testing.assert_array_equal(beside.scores(query), expected)
            np.testing.assert_array_equal(at_once.scores(query), expected)
        assert merged.scores("zinx").any()

    def test_many_changes_are_made_part_of_the_index(self, model: FittedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("recsys.changed_index.MOST_CHANGED", 2)
        search = Search(Recommender(model))
        search.warm_up()
        changed = model
        for row, title in [(6, "Zinc bucket"), (7, "Yurt"), (8, "Quilt"), (9, "Vase")]:
            changed = self.changed(changed, row, title)
            search = self.after(search, changed, row)
            assert titles(search.recommend(title, Request(history=(), n=1))) == [title]
        assert isinstance(search.index, ChangedIndex)
        assert search.index.rows.tolist() == [9]

    def test_without_an_index_everything_is_indexed(self, model: FittedModel) -> None:
        search = self.after(Search(Recommender(model)), self.changed(model, 6, "Zinc bucket"), 6)
        assert titles(search.recommend("zinc", Request(history=(), n=5))) == ["Zinc bucket"]
        assert titles(search.recommend("lamp", Request(history=(), n=5))) == ["Lamp"]
