"""Further figures, known by reasoning on the handmade model: i00 has three users of three, i01 two, i02 one."""

from __future__ import annotations

import math

import pytest

from handmade import TRAINED_UNTIL, handmade_model
from recsys.evaluation import evaluate
from recsys.evaluation_result import changed_settings
from recsys.settings import Settings, settings_from
from test_recsys_evaluation import LATE, LEARNED, dataset


@pytest.fixture(scope="module")
def figures():
    """Four queries: ann, who has three events, bob with two, Uni with one, and a newcomer with one."""
    asked = dataset([*LEARNED, *[("filler", "i00")] * 30, *LATE], TRAINED_UNTIL - len(LEARNED) - 29)
    return evaluate(asked, task="live", model=handmade_model()).to_json()


def test_the_data_set_is_described(figures):
    facts = figures["data"]
    assert facts["events_by_type"] == {"view": 36}
    assert (facts["train_users"], facts["items_with_text"], facts["rejected_rows"]) == (4, 12, 0)
    assert facts["last_event"] - facts["first_event"] == 35


def test_one_user_of_four_is_no_longer_new(figures):
    names = [(row["slice"], row["queries"]) for row in figures["slices"] if row["by"] == "history length"]
    assert names == [("new: up to 2 events", 3)] * 2 + [("known: 3 events", 1)] * 2


def test_what_nobody_has_taken_is_new(figures):
    """The handmade model knows i00, i01 and i02; the right items are i03, i03, i05 and i04."""
    names = [(row["slice"], row["queries"]) for row in figures["slices"] if row["by"] == "item popularity"]
    assert names == [("new: no event", 4)] * 2


def test_slices_that_hold_everything_have_the_figures_of_everything(figures):
    """All right items are new, so that slice is the whole task."""
    whole = {system["name"]: system for system in figures["systems"]}
    for row in figures["slices"]:
        if row["slice"] == "new: no event":
            assert row["ndcg@10"] == pytest.approx(whole[row["system"]]["ndcg@10"])
            assert row["low"] == pytest.approx(whole[row["system"]]["ndcg@10_low"])
            assert row["recall@50"] == pytest.approx(whole[row["system"]]["recall@50"])


def test_histories_are_as_popular_as_their_items(figures):
    """Of three users: ann's items have 3, 2 and 1, bob's 3 and 2, those of the others 3."""
    assert figures["beyond_accuracy"]["history_popularity"] == pytest.approx((2 / 3 + 2.5 / 3 + 1 + 1) / 4)


def test_popularity_shows_what_its_order_implies(figures):
    """Ann's list has the nine items that nobody has, bob's i02 and those, Uni's and the newcomer's i01, i02 and
    eight of them."""
    found = {row["system"]: row for row in figures["beyond_accuracy"]["systems"]}["popularity"]
    shown = [0, 1 / 3 / 10, (2 + 1) / 3 / 10, (2 + 1) / 3 / 10]
    assert found["popularity@10"] == pytest.approx(sum(shown) / 4)
    nobody, one, two = (-math.log2((users + 1) / 4) for users in (0, 1, 2))
    surprise = [nobody, (one + 9 * nobody) / 10, (two + one + 8 * nobody) / 10, (two + one + 8 * nobody) / 10]
    assert found["novelty@10"] == pytest.approx(sum(surprise) / 4)
    own = figures["beyond_accuracy"]["history_popularity"]
    assert found["popularity_lift"] == pytest.approx(found["popularity@10"] / own - 1)


def test_every_shown_item_is_in_the_reliability(figures):
    """Lists hold the whole catalogue less the history: 9 + 10 + 11 + 11 items, the four right ones among them."""
    assert sum(one["shown"] for one in figures["calibration"]) == 41
    assert sum(one["hits"] for one in figures["calibration"]) == 4


def test_settings_that_were_changed_are_named():
    assert changed_settings(Settings()) == {}
    assert changed_settings(settings_from({"seed": 3, "events": {"weights": {"wish": 2.0}}})) == {
        "seed": 3,
        "events.weights.wish": 2.0,
    }
