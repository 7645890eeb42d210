"""Recommender: lists that are full, unseen, filtered, independent of one another and the beginning of longer ones."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import world
from gated import gated_model
from recsys.errors import RequestError
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import HistoryEvent, Request

NUM_ITEMS = len(world.item_rows())


@pytest.fixture(scope="module")
def recommender(tiny_model: FittedModel) -> Recommender:
    return Recommender(tiny_model)


def history(*items: str, start: float | None = None) -> tuple[HistoryEvent, ...]:
    stamps = [None if start is None else start + k * world.DAY for k in range(len(items))]
    return tuple(HistoryEvent(item, "purchase", stamp) for item, stamp in zip(items, stamps, strict=True))


POOL = [
    Request("1", "u000", n=5),
    Request("2", "u001", n=12),
    Request("3", "never seen", n=7),
    Request("4", None, history("space-01", "space-02", start=world.START), n=9),
    Request("5", None, history("garden-01", "nothing"), n=9),
    Request("6", "u002", (), n=4),
    Request("7", "u003", recent=("space-11", "space-12"), n=6),
    Request("8", "u004", n=6, exclude_seen=False),
    Request("9", "u005", n=6, filters=(("category", "rose"), ("category", "spade"))),
    Request("10", "u006", n=6, exclude=("space-05", "garden-05")),
    Request("11", "u007", n=6, at=world.START + 3 * world.DAY),
]


@hypothesis_settings(max_examples=25)
@given(st.lists(st.sampled_from(range(len(POOL))), max_size=15))
def test_any_requests_in_any_order_get_the_lists_they_get_alone(recommender: Recommender, chosen: list[int]) -> None:
    alone = [recommender.recommend(request) for request in POOL]
    together = recommender.recommend_many([POOL[k] for k in chosen])
    assert together == [alone[k] for k in chosen]


@pytest.mark.parametrize("request_", POOL, ids=lambda r: r.request_id)
def test_a_list_of_n_is_the_beginning_of_a_longer_one(recommender: Recommender, request_: Request) -> None:
    longest = recommender.recommend(with_n(request_, NUM_ITEMS)).items
    for n in (1, 3, 16, 25):
        assert recommender.recommend(with_n(request_, n)).items == longest[:n]


def with_n(request: Request, n: int) -> Request:
    from dataclasses import replace

    return replace(request, n=n)


def test_lists_are_ranked_distinct_and_sorted_by_score_then_id(recommender: Recommender) -> None:
    for answer in recommender.recommend_many(POOL):
        ids = [item.item_id for item in answer.items]
        assert len(ids) == len(set(ids))
        assert [item.rank for item in answer.items] == list(range(1, len(ids) + 1))
        keys = [(-item.score, item.item_id) for item in answer.items]
        assert keys == sorted(keys)


def test_n_items_come_back_whenever_n_exist(recommender: Recommender) -> None:
    seen = world.EVENTS_PER_USER
    assert len(recommender.recommend(Request(user="u000", n=NUM_ITEMS)).items) == NUM_ITEMS - seen
    everything = recommender.recommend(Request(user="u000", n=NUM_ITEMS, exclude_seen=False))
    assert len(everything.items) == NUM_ITEMS
    rose = recommender.recommend(Request(user="u000", n=50, filters=(("category", "rose"),)))
    assert len(rose.items) == sum("rose" in row["category"] for row in world.item_rows())


def test_nothing_seen_or_excluded_comes_back(recommender: Recommender) -> None:
    answer = recommender.recommend(Request(user="u000", recent=("space-15",), exclude=("space-16",), n=NUM_ITEMS))
    ids = {item.item_id for item in answer.items}
    assert not ids & {world.item_id("space", k) for k in range(world.EVENTS_PER_USER)}
    assert not ids & {"space-15", "space-16"}


def test_a_click_changes_the_list(recommender: Recommender) -> None:
    guest = recommender.recommend(Request(recent=("garden-04",), n=3))
    assert all(item.item_id.startswith("garden") for item in guest.items)
    assert guest.strategy == "ranked"


def test_filters_of_one_column_are_or_and_of_two_columns_and(recommender: Recommender) -> None:
    both = recommender.recommend(Request(user="u000", n=50, filters=(("category", "rose"), ("category", "orbit"))))
    titles = {item.title.split()[0] for item in both.items}
    assert titles == {"rose", "orbit"}
    filters = (("category", "orbit"), ("brand", "garden press"))
    assert recommender.recommend(Request(user="u000", n=50, filters=filters)).items == ()
    (priced,) = recommender.recommend(
        Request(user="u001", n=50, filters=(("price", "7"), ("brand", "space press")))
    ).items
    assert priced.item_id == "space-02"


@pytest.mark.parametrize(
    ("request_", "strategy", "words"),
    [
        (Request(user="u000"), "ranked", ""),
        (Request(user="stranger"), "popular", "'stranger' has never been seen"),
        (Request(user="u000", at=world.START - 1.0), "popular", "no event before the time"),
        (Request(), "popular", "a guest"),
        (Request(history=history("x", "y")), "popular", "none of the 2 items"),
    ],
)
def test_the_strategy_says_what_answered_and_why(
    recommender: Recommender, request_: Request, strategy: str, words: str
) -> None:
    answer = recommender.recommend(request_)
    assert answer.strategy == strategy
    assert words in answer.reason
    assert len(answer.items) == 10


def test_popular_lists_go_by_popularity(recommender: Recommender, tiny_model: FittedModel) -> None:
    ids = tiny_model.catalogue.items.ids
    expected = [ids[row] for row in tiny_model.fallback.order[:10]]
    assert [item.item_id for item in recommender.recommend(Request(user="stranger")).items] == expected


def test_only_what_came_before_the_time_asked_for_is_known(recommender: Recommender) -> None:
    at = world.START + 2 * world.DAY
    answer = recommender.recommend(Request(user="u000", at=float(at), n=NUM_ITEMS))
    ids = {item.item_id for item in answer.items}
    assert world.item_id("space", 1) not in ids
    assert world.item_id("space", 2) in ids


def test_unknown_history_items_are_counted(recommender: Recommender) -> None:
    answer = recommender.recommend(Request(history=history("space-01", "??"), recent=("!!",)))
    assert answer.unknown_history_items == 2


@pytest.mark.parametrize(
    ("request_", "parameter"),
    [
        (Request(n=0), "n"),
        (Request(n=-1), "n"),
        (Request(n=10**9), "n"),
        (Request(at=float("nan")), "at"),
        (Request(filters=(("colour", "red"),)), "filter"),
        (Request(filters=(("price", "cheap"),)), "filter"),
        (Request(filters=(("price", "nan"),)), "filter"),
    ],
)
def test_a_bad_request_names_its_parameter(recommender: Recommender, request_: Request, parameter: str) -> None:
    with pytest.raises(RequestError) as caught:
        recommender.recommend(request_)
    assert caught.value.parameter == parameter


def test_an_unavailable_item_is_never_offered(tiny_model: FittedModel) -> None:
    from dataclasses import replace

    frame = tiny_model.catalogue.frame.assign(available=lambda f: f["item_id"] != "space-08")
    changed = replace(tiny_model, catalogue=replace(tiny_model.catalogue, frame=frame))
    answer = Recommender(changed).recommend(Request(user="u000", n=NUM_ITEMS))
    assert "space-08" not in {item.item_id for item in answer.items}


def test_explanations_add_up_to_the_score(recommender: Recommender) -> None:
    table = recommender.explain(Request(user="u000", n=5))
    answer = recommender.recommend(Request(user="u000", n=5))
    assert table["item_id"].tolist() == [item.item_id for item in answer.items]
    shares = table.drop(columns=["item_id", "title", "score"]).sum(axis=1)
    offsets = table["score"] - shares
    np.testing.assert_allclose(offsets, offsets.iloc[0], atol=1e-5)


def test_a_ranker_that_lacks_features_is_explained_by_its_own(tiny_model: FittedModel) -> None:
    model = gated_model(tiny_model)
    table = Recommender(model).explain(Request(user="u000", n=5))
    assert set(table.columns) == {"item_id", "title", "score", *model.ranker.names}
    offsets = table["score"] - table[list(model.ranker.names)].sum(axis=1)
    np.testing.assert_allclose(offsets, offsets.iloc[0], atol=1e-5)


def test_what_is_not_before_the_time_of_the_list_is_not_known(recommender: Recommender) -> None:
    at = float(world.START + 2 * world.DAY)
    longer = history("space-01", "space-02", "garden-03", start=world.START)
    shorter = longer[:2]
    first, second = (recommender.recommend(Request(history=h, at=at)) for h in (longer, shorter))
    assert first == second
    assert "garden-03" not in {item.item_id for item in recommender.recommend(Request(history=longer)).items}


def test_an_impression_is_nothing_a_user_did(recommender: Recommender) -> None:
    shown = (HistoryEvent("space-09", "impression"),)
    with_it, without = (
        recommender.recommend(Request(history=h, n=NUM_ITEMS))
        for h in (history("space-07", "space-08") + shown, history("space-07", "space-08"))
    )
    assert with_it == without
    assert "space-09" in {item.item_id for item in with_it.items}


def test_a_dismissed_item_stays_away_and_hides_nothing_else(recommender: Recommender) -> None:
    liked = history("space-07", "space-08", start=world.START)
    dismissed = HistoryEvent("space-09", "dismiss", float(world.START + 5 * world.DAY))
    answer = recommender.recommend(Request(history=(*liked, dismissed), n=3))
    assert "space-09" not in {item.item_id for item in answer.items}
    assert answer.items[0].item_id.startswith("space")


def test_recent_clicks_count_when_they_are_newer_than_the_clock(recommender: Recommender) -> None:
    histories = recommender.histories([Request(user="u000", recent=("space-11", "space-12"))])
    assert histories.times[-1] < histories.as_of[0]
    assert (histories.moments[histories.indptr[1:] - 1] == world.EVENTS_PER_USER + 1).all()


def test_a_list_is_for_the_newest_known_event_and_in_service_for_now(tiny_model: FittedModel) -> None:
    asked = [Request(user="u000"), Request(history=(), recent=("space-01",))]
    assert (Recommender(tiny_model).histories(asked).as_of == tiny_model.trained_until + 1.0).all()
    before = time.time()
    assert (Recommender.live(tiny_model).histories(asked).as_of >= before).all()


def test_the_time_asked_for_is_kept_when_the_newest_event_is_just_before_it(recommender: Recommender) -> None:
    at = float(world.START) + 0.25
    histories = recommender.histories([Request(history=history("space-01", start=world.START), at=at)])
    assert histories.as_of.tolist() == [at]


def test_ids_without_times_are_a_second_apart_up_to_the_list(recommender: Recommender) -> None:
    at = float(world.START + 40 * world.DAY)
    histories = recommender.histories([Request(history=(HistoryEvent("space-03"), HistoryEvent("space-04")), at=at)])
    assert histories.times.tolist() == [at - 2, at - 1]


def test_an_empty_list_has_an_empty_explanation(recommender: Recommender) -> None:
    nothing = Request(user="u000", filters=(("category", "orbit"), ("brand", "garden press")))
    assert len(recommender.explain(nothing)) == 0


def test_candidates_found_once_are_ranked_as_ever(tiny_model: FittedModel) -> None:
    recommender = Recommender(tiny_model)
    requests = [Request(user=f"u{u:03d}", n=5 + u) for u in range(8)] + [Request(n=3)]
    assert recommender.rank(recommender.candidates(requests)) == recommender.recommend_many(requests)


def test_candidates_are_shared_by_requests_of_the_same_filters_alone(tiny_model: FittedModel) -> None:
    recommender = Recommender(tiny_model)
    filtered = Request(user="u000", filters=(("category", "garden"),))
    assert recommender.rank(recommender.candidates([filtered])) == [recommender.recommend(filtered)]
    with pytest.raises(ValueError, match="2 different kinds"):
        recommender.candidates([filtered, Request(user="u000")])
