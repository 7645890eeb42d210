"""Shaping: what each wish does to an order, with answers known by reasoning, and what holds of every list."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from handmade import NUM_ITEMS, handmade_catalogue, handmade_model
from recsys.attributes import Attributes
from recsys.errors import RequestError
from recsys.filters import parse_filter
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from recsys.rules import Rules
from recsys.shapes import Cap, Exploration, parse_cap, parse_exploration
from recsys.shaping import HEAD, AppliedCap, Pin, Shape, Shift, placed, probabilities

ATTRIBUTES = Attributes(handmade_catalogue())
ORDER = np.arange(1, 9)
REST = np.array([9, 10, 11, 0])
NO_TEXT = np.zeros((NUM_ITEMS, 0), np.float32)
EYE = np.eye(NUM_ITEMS, dtype=np.float32)


def listed(shape: Shape, n: int = 12, embeddings: np.ndarray = NO_TEXT, seed: str = "s") -> list[int]:
    """Candidates 1 to 8, best first; 9, 10, 11 and 0 are the others. Odd numbers are Books, even ones Games."""
    made = placed(ORDER, n, shape, ATTRIBUTES, embeddings, lambda: REST, seed)
    return [item.item_row for item in made]


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_a_boosted_item_rises_to_its_place_divided_and_a_buried_one_falls() -> None:
    """8 competes at place 4, behind 4, and 1 at place 3, before 3: at one place, the one that was ahead stays ahead."""
    shape = Shape(shifts=(Shift(parse_filter("price:8"), 1 / 2), Shift(parse_filter("price:1"), 3)))
    assert listed(shape, 8) == [2, 1, 3, 4, 8, 5, 6, 7]


def test_a_pinned_item_stands_at_its_position_and_nowhere_else() -> None:
    assert listed(Shape(pins=(Pin(2, rows(10)), Pin(4, rows(1)))), 6) == [2, 10, 3, 1, 4, 5]


def test_two_pins_of_one_position_follow_one_another() -> None:
    assert listed(Shape(pins=(Pin(1, rows(7)), Pin(1, rows(7, 8)))), 3) == [7, 8, 1]


def test_a_pin_behind_the_end_of_the_list_ends_it() -> None:
    assert listed(Shape(pins=(Pin(900, rows(1)),)))[-1] == 1


def test_a_pinned_filter_shows_its_best_candidate_that_is_not_listed_yet() -> None:
    assert listed(Shape(pins=(Pin(3, rows(), parse_filter("category:Books")),)), 4) == [1, 2, 3, 4]
    assert listed(Shape(pins=(Pin(1, rows(), parse_filter("category:Toys AND price>4")),)), 3) == [6, 1, 2]


def test_a_cap_holds_items_back_as_long_as_others_are_left() -> None:
    """After one of each kind only 0, which has no category, is free; then the rest in its order."""
    assert listed(Shape(caps=(AppliedCap(Cap("category", 1)),))) == [1, 2, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_a_cap_of_the_first_places_ends_there() -> None:
    shape = Shape(caps=(AppliedCap(Cap("category", 1, first=3)),))
    assert listed(shape, 6) == [1, 2, 0, 3, 4, 5]


def test_a_cap_with_a_filter_counts_its_items_only() -> None:
    shape = Shape(caps=(AppliedCap(Cap("category", 1), parse_filter("price>2")),))
    assert listed(shape, 6) == [1, 2, 3, 4, 0, 5]


def test_full_diversity_takes_the_best_and_then_what_is_least_like_it() -> None:
    assert listed(Shape(diversity=1.0), 3) == [1, 2, 3], "Books, Games and Toys, and then all are alike to one above"
    vectors = EYE.copy()
    vectors[[2, 3]] = vectors[1]
    assert listed(Shape(diversity=1.0), 4, vectors) == [1, 4, 5, 6]


def test_mmr_by_hand() -> None:
    """2 is the same text as 1: after it, 2 is worth .5 * .631 - .5 * 1 < 0, but 3 .5 * .5."""
    vectors = EYE.copy()
    vectors[2] = vectors[1]
    assert listed(Shape(diversity=0.5), 3, vectors) == [1, 3, 4]
    assert listed(Shape(diversity=0.0001), 3, vectors) == [1, 2, 3]


def test_epsilon_greedy_and_softmax_by_hand() -> None:
    values = np.array([0.5, 1.0])
    np.testing.assert_allclose(probabilities(values, Exploration("epsilon", 0.2)), [0.1, 0.9])
    np.testing.assert_allclose(probabilities(values, Exploration("softmax", 0.5)), [1 / (1 + np.e), np.e / (1 + np.e)])


@pytest.mark.parametrize("exploration", [Exploration("epsilon", 0.3), Exploration("softmax", 0.4)])
@pytest.mark.parametrize("diversity", [0.0, 0.4])
def test_propensities_are_the_frequencies_of_many_lists(exploration: Exploration, diversity: float) -> None:
    """The stated probability of a list's first two places is their product: each pair comes as often as it says."""
    shape = Shape(diversity=diversity, exploration=exploration)
    num_lists = 6000
    counts: Counter[tuple[int, ...]] = Counter()
    stated: dict[tuple[int, ...], float] = {}
    for number in range(num_lists):
        made = placed(ORDER, 2, shape, ATTRIBUTES, NO_TEXT, lambda: REST, f"request {number}")
        pair = tuple(item.item_row for item in made)
        counts[pair] += 1
        stated[pair] = made[0].propensity * made[1].propensity
    assert sum(stated.values()) == pytest.approx(1.0, abs=0.02), "nearly all of the 56 pairs have come"
    for pair, chance in stated.items():
        spread = np.sqrt(chance * (1 - chance) / num_lists)
        assert abs(counts[pair] / num_lists - chance) < 5 * spread + 1e-3


def test_one_seed_gives_one_list_and_another_another() -> None:
    shape = Shape(exploration=Exploration("softmax", 1.0))
    assert listed(shape) == listed(shape)
    assert len({tuple(listed(shape, seed=str(k))) for k in range(20)}) > 10


def test_what_is_pinned_or_no_candidate_is_certain() -> None:
    shape = Shape(exploration=Exploration("epsilon", 0.5), pins=(Pin(1, rows(3)),))
    made = placed(ORDER, 12, shape, ATTRIBUTES, NO_TEXT, lambda: REST, "s")
    assert [item.propensity for item in made[:1] + made[8:]] == [1.0] * 5
    assert all(0 < item.propensity < 1 for item in made[1:7])


CAPS = st.builds(
    AppliedCap,
    st.builds(Cap, st.sampled_from(["category", "colour", "brand"]), st.integers(1, 3), st.none() | st.integers(1, 6)),
    st.none() | st.just(parse_filter("price>3")),
)
PINS = st.builds(Pin, st.integers(1, 14), st.lists(st.integers(0, 11), max_size=2).map(lambda given: rows(*given)))
SHAPES = st.builds(
    Shape,
    st.sampled_from([0.0, 0.3, 1.0]),
    st.lists(CAPS, max_size=2).map(tuple),
    st.sampled_from([Exploration(), Exploration("epsilon", 0.5), Exploration("softmax", 0.3)]),
    st.sampled_from([(), (Shift(parse_filter("colour:blue"), 0.2),), (Shift(parse_filter("colour:blue"), 4.0),)]),
    st.lists(PINS, max_size=3).map(tuple),
)


@given(SHAPES)
def test_every_item_comes_once_and_a_list_of_n_is_the_beginning_of_a_longer_one(shape: Shape) -> None:
    whole = listed(shape, 50, EYE)
    assert sorted(whole) == list(range(NUM_ITEMS))
    for n in (1, 5, 9):
        assert listed(shape, n, EYE) == whole[:n]


@given(SHAPES)
def test_caps_hold_while_anything_else_is_left(shape: Shape) -> None:
    shape = dataclasses.replace(shape, pins=(), caps=(AppliedCap(Cap("colour", 2, 4)),))
    blues = sum(row % 3 == 0 for row in listed(shape, 4, EYE))
    assert blues == 2, "two blue and two red ones"


def recommender_of(*rules: dict[str, object]) -> Recommender:
    made = Rules.model_validate({"rules": [{"name": str(k), **rule} for k, rule in enumerate(rules)]})
    return Recommender(handmade_model(), rules=lambda: made)


def ids(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


PLAIN = ids(recommender_of().recommend(Request(user="bob", n=12)))


def test_rules_reach_the_list() -> None:
    """bob has seen i00 and i01."""
    assert len(PLAIN) == 10
    assert (
        ids(recommender_of({"action": "pin", "items": ["i09"], "position": 1}).recommend(Request(user="bob")))[0]
        == "i09"
    )
    assert not {"i03", "i05"} & set(
        ids(recommender_of({"action": "exclude", "items": ["i03", "i05"]}).recommend(Request(user="bob", n=12)))
    )
    buried = recommender_of({"action": "bury", "items": [PLAIN[0]], "factor": 500}).recommend(Request(user="bob", n=12))
    assert sorted(ids(buried)) == sorted(PLAIN)
    assert ids(buried)[0] == PLAIN[1]


def test_no_pin_shows_what_the_request_rules_out() -> None:
    pin = recommender_of({"action": "pin", "items": ["i00", "i04", "i05"], "position": 1})
    assert ids(pin.recommend(Request(user="bob")))[0] == "i04", "i00 was seen"
    assert ids(pin.recommend(Request(user="bob", exclude=("i04",))))[0] == "i05"
    assert ids(pin.recommend(Request(user="bob", exclude_seen=False)))[0] == "i00"
    assert "i04" not in ids(pin.recommend(Request(user="bob", n=12, filters=(("category", "Books"),))))


def test_a_rule_applies_in_its_period_by_the_time_of_the_list() -> None:
    rule = {"action": "exclude", "items": ["i04"], "from": "2026-01-01T00:00:00Z", "until": "2026-02-01T00:00:00+00:00"}
    recommender = recommender_of(rule)
    start, end = 1_767_225_600.0, 1_769_904_000.0
    requests = [Request(user="bob", n=12, at=at) for at in (start - 1, start, end - 1, end)]
    assert ["i04" in ids(answer) for answer in recommender.recommend_many(requests)] == [True, False, False, True]


def test_the_scores_stay_the_rankers() -> None:
    by_id = {item.item_id: item.score for item in recommender_of().recommend(Request(user="bob", n=12)).items}
    diverse = recommender_of().recommend(Request(user="bob", n=10, diversity=0.9))
    assert ids(diverse) != PLAIN
    assert {item.item_id: item.score for item in diverse.items} == by_id


def test_settings_shape_lists_unless_the_request_says_otherwise() -> None:
    model = handmade_model()
    serve = model.settings.serve.model_copy(update={"caps": ("category:1",), "exploration": "epsilon:0.5"})
    recommender = Recommender(dataclasses.replace(model, settings=model.settings.model_copy(update={"serve": serve})))
    assert recommender.recommend(Request(user="bob")).items[0].propensity is not None
    plain = recommender.recommend(Request(user="bob", n=12, caps=(), exploration=Exploration()))
    assert ids(plain) == PLAIN
    assert plain.items[0].propensity is None


def test_among_lists_all_of_the_named_items_and_no_others() -> None:
    answer = recommender_of().recommend(Request(user="bob", among=("i07", "i02", "nowhere", "i00"), n=12))
    assert sorted(ids(answer)) == ["i02", "i07"]
    with_seen = recommender_of().recommend(Request(user="bob", among=("i07", "i00"), n=12, exclude_seen=False))
    assert sorted(ids(with_seen)) == ["i00", "i07"]


@given(st.lists(st.sampled_from([0.0, 0.3, None]), min_size=1, max_size=4))
@hypothesis_settings(max_examples=10)
def test_shaped_requests_are_independent_of_one_another(diversities: list[float | None]) -> None:
    recommender = recommender_of({"action": "boost", "filter": "colour:blue", "factor": 3})
    requests = [Request(str(k), "bob", diversity=d, caps=(Cap("colour", 1 + k),)) for k, d in enumerate(diversities)]
    assert recommender.recommend_many(requests) == [recommender.recommend(request) for request in requests]


@pytest.mark.parametrize("text", [":2", "category:", "category:0", "category:x", "category:2/", "a:1/0"])
def test_a_cap_that_can_not_be_read_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_cap(text)
    assert caught.value.parameter == "cap"


@pytest.mark.parametrize(
    "text", ["", "greedy", "epsilon:2", "epsilon:x", "epsilon:nan", "softmax:0", "softmax", "softmax:inf"]
)
def test_an_exploration_that_can_not_be_read_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_exploration(text)
    assert caught.value.parameter == "exploration"


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (parse_cap, "category:2", Cap("category", 2)),
        (parse_cap, "a:b:2/10", Cap("a:b", 2, 10)),
        (parse_exploration, "none", Exploration()),
        (parse_exploration, "softmax:0.5", Exploration("softmax", 0.5)),
    ],
)
def test_what_is_read(read: Callable[[str], object], text: str, expected: object) -> None:
    assert read(text) == expected


def test_diversity_over_the_whole_head_is_fast() -> None:
    """Ten places among `HEAD` candidates of 384 numbers: half a millisecond where nothing else runs."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(NUM_ITEMS, 384)).astype(np.float32)
    order = rng.integers(0, NUM_ITEMS, HEAD)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        placed(order, 10, Shape(diversity=0.5), ATTRIBUTES, vectors, lambda: REST, "s")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01
