"""Query strings -> requests, and answers -> JSON, with results known by reasoning."""

import json
import math
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.api.schemas import PARAMETERS, answer_document, json_bytes, request_from_query
from recsys.errors import RequestError
from recsys.requests import Recommendation, RecommendedItem, Request
from recsys.settings import ServeSettings

LIMITS = ServeSettings()


def parse(query: str | bytes) -> Request:
    return request_from_query(query if isinstance(query, bytes) else query.encode(), "r1", LIMITS)


def problem(query: str | bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(query)
    return caught.value


def test_a_bare_user_takes_every_default() -> None:
    assert parse("user=u1") == Request(request_id="r1", user="u1")


def test_every_parameter_reaches_the_request() -> None:
    query = "user=u1&n=3&recent=i1,i2&exclude=i3&filter=category:Books&filter=brand:A%3AB&exclude_seen=false"
    assert parse(query) == Request(
        request_id="r1",
        user="u1",
        n=3,
        recent=("i1", "i2"),
        exclude=("i3",),
        filters=(("category", "Books"), ("brand", "A:B")),
        exclude_seen=False,
    )


def test_a_guest_has_an_empty_history_and_what_is_recent() -> None:
    assert parse("recent=i1") == Request(request_id="r1", history=(), recent=("i1",))


def test_a_guest_may_have_seen_nothing_yet() -> None:
    assert parse("recent=") == Request(request_id="r1", history=(), recent=())


def test_empty_places_in_a_list_are_no_items() -> None:
    assert parse("user=u1&exclude=,i1,,i2,").exclude == ("i1", "i2")


def test_a_filter_value_may_hold_colons_and_spaces() -> None:
    assert parse("user=u&filter=title:a:b+c").filters == (("title", "a:b c"),)


def test_raw_utf8_is_read_like_its_escapes() -> None:
    assert parse("user=żółw".encode()) == parse("user=%C5%BC%C3%B3%C5%82w")


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.lists(st.text(st.characters(exclude_characters="\0,", exclude_categories=["Cs"]), min_size=1), max_size=3),
)
def test_any_unicode_id_survives_the_url(user: str, recent: list[str]) -> None:
    request = parse(urlencode({"user": user, "recent": ",".join(recent)}))
    assert (request.user, request.recent) == (user, tuple(recent))


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("", "user"),
        ("n=5", "user"),
        ("user=", "user"),
        ("user", "user"),
        ("user=&recent=i1", "user"),
        ("user=a%00b", "user"),
        ("user=%ff", "user"),
        ("user=%C3", "user"),
        ("user=%ED%A0%80", "user"),
        (b"user=\xff", "user"),
        ("user=100%", "user"),
        ("user=%zz", "user"),
        ("user=" + "x" * 10_240, "user"),
        ("user=u1&user=u2", "user"),
        ("user=u1&n=", "n"),
        ("user=u1&n=abc", "n"),
        ("user=u1&n=1.5", "n"),
        ("user=u1&n=%2B5", "n"),
        ("user=u1&n=1e3", "n"),
        ("user=u1&n=١", "n"),
        ("user=u1&n=" + "9" * 5_000, "n"),
        ("user=u1&n=5&n=5", "n"),
        ("user=u1&recent=i1&recent=i2", "recent"),
        ("user=u1&recent=" + "x" * 2_000, "recent"),
        ("user=u1&exclude=%ff", "exclude"),
        ("user=u1&exclude_seen=perhaps", "exclude_seen"),
        ("user=u1&exclude_seen=", "exclude_seen"),
        ("user=u1&filter=Books", "filter"),
        ("user=u1&filter=:Books", "filter"),
        ("user=u1&filter=category:", "filter"),
        ("user=u1&filter=", "filter"),
        ("user=u1&limit=5", "limit"),
        ("user=u1&N=5", "N"),
        ("user=u1&%ff=5", "%ff"),
        ("user=u1&=5", ""),
    ],
)
def test_what_is_malformed_is_named(query: str | bytes, parameter: str) -> None:
    error = problem(query)
    assert error.parameter == parameter
    assert len(str(error)) < 300, "a long value must not be repeated in full"


def test_an_unknown_parameter_is_told_the_allowed_ones() -> None:
    assert all(name in str(problem("user=u1&limit=5")) for name in PARAMETERS)


def test_the_longest_id_allowed_is_taken() -> None:
    assert parse("user=" + "x" * LIMITS.max_id_length).user == "x" * LIMITS.max_id_length


def test_the_answer_has_the_promised_keys() -> None:
    item = RecommendedItem("i1", 1, 0.5, "One", ("als", "popularity"))
    answer = answer_document(Recommendation("r1", "u1", "ranked", "", (item,), 2), "v1")
    assert json.loads(json_bytes(answer)) == {
        "user": "u1",
        "request_id": "r1",
        "bundle": "v1",
        "strategy": "ranked",
        "reason": "",
        "unknown_history_items": 2,
        "items": [{"item_id": "i1", "rank": 1, "score": 0.5, "title": "One", "sources": ["als", "popularity"]}],
    }


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_no_number_that_json_lacks(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes({"score": number})


@pytest.mark.parametrize("title", ['Żółw "x"\n', "\u2028</script>", "\U0001f422", "a lone surrogate \ud800"])
def test_any_title_survives_json(title: str) -> None:
    assert json.loads(json_bytes({"title": title}).decode("utf-8")) == {"title": title}
