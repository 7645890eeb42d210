"""Example lists: the same ones every time, with what was right and where it stands."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features.tables import Dataset, Events, IdIndex, Rejected
from handmade import handmade_catalogue
from recsys.example_lists import NUM_EXAMPLES, example_lists
from recsys.list_rows import ListRows
from recsys.requests import HistoryEvent, Request
from recsys.splits import EvaluationTask

CATALOGUE = handmade_catalogue()


def task(queries):
    """One query a (user, history, truth)."""
    nothing = np.empty(0, np.int32)
    events = Events(nothing, nothing, np.empty(0, np.int16), np.empty(0), np.empty(0, np.float32), (), "timestamp")
    train = Dataset(CATALOGUE, events, IdIndex([]), Rejected(pd.DataFrame()))
    requests = tuple(
        Request(str(k), user, tuple(HistoryEvent(item, "view", 1.0) for item in history), at=5.0)
        for k, (user, history, _) in enumerate(queries)
    )
    truths = tuple(frozenset(truth) for _, _, truth in queries)
    return EvaluationTask("live", train, requests, truths, tuple(q[0] for q in queries), frozenset({"i09"}), 4.0)


def examples(queries, lists, ndcg):
    return example_lists(task(queries), np.array(ndcg), ListRows.of(lists, CATALOGUE.items, 50), CATALOGUE)


LONG = [f"i{k:02d}" for k in range(6)]


def test_an_example_says_what_was_right_and_where_it_stands():
    found = examples([("ann", LONG, ["i08", "i09", "i07"])], [["i06", "i08", "i07"]], [0.5])
    (best,) = found["best"]
    assert found["worst"] == []
    assert (best["user"], best["at"], best["ndcg@10"], best["num_events"]) == ("ann", 5.0, 0.5, 6)
    assert [item["item_id"] for item in best["history"]] == LONG[::-1]
    assert best["history"][0] == {"item_id": "i05", "title": "Title 5", "event": "view"}
    assert [(i["item_id"], i["rank"], i["new"]) for i in best["truth"]] == [
        ("i08", 2, False),
        ("i07", 3, False),
        ("i09", None, True),
    ]
    assert [item["hit"] for item in best["list"]] == [False, True, True]


def test_users_with_hardly_a_history_are_left_out():
    queries = [("ann", LONG[:1], ["i09"]), ("bob", LONG, ["i09"])]
    found = examples(queries, [["i09"], ["i08"]], [1.0, 0.0])
    assert [one["user"] for one in found["best"]] == ["bob"]


def test_where_nobody_has_much_of_a_history_the_longest_ones_are_taken():
    queries = [("ann", LONG[:1], ["i09"]), ("bob", LONG[:2], ["i09"])]
    found = examples(queries, [["i09"], ["i08"]], [1.0, 0.0])
    assert [one["user"] for one in found["best"]] == ["bob"]


def test_the_best_come_first_one_a_user_and_ties_go_to_more_right_items():
    queries = [(user, LONG, truth) for user, truth in [("a", ["i09"]), ("b", ["i08", "i09"]), ("b", ["i09"])]]
    queries += [(f"u{k}", LONG, ["i09"]) for k in range(10)]
    found = examples(queries, [["i09"]] * 13, [1.0, 1.0, 1.0, *np.linspace(0.9, 0, 10)])
    assert [one["user"] for one in found["best"]] == ["b", "a", "u0", "u1"]
    assert [one["user"] for one in found["worst"]] == ["u9", "u8", "u7", "u6"]
    assert len(found["best"]) == NUM_EXAMPLES


def test_no_list_is_both_good_and_bad():
    found = examples([("a", LONG, ["i09"]), ("b", LONG, ["i09"])], [["i09"], []], [1.0, 0.0])
    assert [[one["user"] for one in found[kind]] for kind in ("best", "worst")] == [["a", "b"], []]


def test_long_titles_are_cut():
    frame = CATALOGUE.frame.copy()
    frame["title"] = frame["title"].where(frame["item_id"] != "i09", "x" * 10_000)
    catalogue = type(CATALOGUE)(CATALOGUE.items, frame, CATALOGUE.attributes)
    lists = ListRows.of([["i09"]], CATALOGUE.items, 50)
    (best,) = example_lists(task([("a", LONG, ["i09"])]), np.array([1.0]), lists, catalogue)["best"]
    assert best["list"][0]["title"] == "x" * 160 + "…"


def test_an_item_that_the_catalogue_lost_is_named_by_its_id():
    (best,) = examples([("a", [*LONG, "gone"], ["i09"])], [["i09"]], [1.0])["best"]
    assert best["history"][0] == {"item_id": "gone", "title": "", "event": "view"}


def test_a_query_without_a_figure_is_no_example():
    assert examples([("a", LONG, [])], [["i09"]], [float("nan")]) == {"best": [], "worst": []}


@pytest.mark.parametrize("lists", [[[]], [["i01"]]])
def test_short_lists_are_shown_as_they_are(lists):
    (best,) = examples([("a", LONG, ["i09"])], lists, [0.0])["best"]
    assert [item["item_id"] for item in best["list"]] == lists[0]
