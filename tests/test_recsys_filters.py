"""The filter language: what it reads, what it refuses, and that what is written reads back as itself."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handmade import NUM_ITEMS, handmade_catalogue
from recsys.attributes import Attributes
from recsys.errors import RequestError
from recsys.filters import MAX_LENGTH, AllOf, AnyOf, Comparison, Filter, Not, combined, normalised, parse_filter

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
AWKWARD = st.sampled_from(
    ["AND", "a OR b", "(x)", "x)", "|", 'say "hi"', "\\", " a", "NOT", "a:b", "<=", "Zork (1980)"]
)
COMPARISONS = st.builds(
    Comparison, TEXTS | AWKWARD, st.sampled_from([":", "!=", "<", "<=", ">", ">="]), TEXTS | AWKWARD
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds(AllOf, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(AnyOf, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(Not, inner)
    ),
    max_leaves=8,
)
BOOKS, CHEAP, ACME = (
    Comparison("category", ":", "Books"),
    Comparison("price", "<", "5"),
    Comparison("brand", ":", "Äcme"),
)


@given(FILTERS)
@example(Comparison("price", "<", "=0"))
@example(Comparison("price", ">", "="))
def test_what_is_written_reads_back_as_itself(expression: Filter) -> None:
    assert parse_filter(str(expression)) == expression


@given(FILTERS)
def test_the_normal_form_is_its_own(expression: Filter) -> None:
    assert normalised(normalised(expression)) == normalised(expression)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(RequestError):
        assert parse_filter(str(parse_filter(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("category:Books", BOOKS),
        ("category=Books", BOOKS),
        (' category : "Books" ', BOOKS),
        ("category:Books AND price<5", AllOf((BOOKS, CHEAP))),
        ("category:Books|price<5", AnyOf((BOOKS, CHEAP))),
        ("category:Books OR price<5 AND brand:Äcme", AnyOf((BOOKS, AllOf((CHEAP, ACME))))),
        ("(category:Books OR price<5) AND brand:Äcme", AllOf((AnyOf((BOOKS, CHEAP)), ACME))),
        ("NOT category:Books", Not(BOOKS)),
        ("NOT (category:Books)", Not(BOOKS)),
        ("title:a:b c", Comparison("title", ":", "a:b c")),
        ("title:Zork (1980)", Comparison("title", ":", "Zork (1980)")),
        ("(title:Zork (1980))", Comparison("title", ":", "Zork (1980)")),
        ("title:SAND AND price<5", AllOf((Comparison("title", ":", "SAND"), CHEAP))),
        ("title:Romeo and Juliet", Comparison("title", ":", "Romeo and Juliet")),
        (r'title:"a \"b\" | \\c"', Comparison("title", ":", r'a "b" | \c')),
    ],
)
def test_what_is_read(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "Books", ":Books", "category:", "category:Books AND", "category:Books OR", "(category:Books",
        "category:Books)",
        "category:(a|b)", 'category:"a', r'category:"a\n"', "AND", "()", "NOT", "a:b | c", "(" * 1000, "NOT " * 900,
        "a:" + "x" * MAX_LENGTH,
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_refused_briefly(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_filter(text)
    assert len(str(caught.value)) < 300


def items_of(*texts: str | tuple[str, str]) -> list[int]:
    """The numbers of the handmade items that the filters let through together."""
    terms = [parse_filter(text) if isinstance(text, str) else text for text in texts]
    return np.flatnonzero(Attributes(handmade_catalogue()).mask(combined(terms))).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("category:Books", [1, 3, 5, 7, 9, 11]),
        ("category:Toys", [2, 4, 6, 8, 10]),
        ("category!=Books", [0, 2, 4, 6, 8, 10]),
        ("price<3", [1, 2]),
        ("price<=3", [1, 2, 3]),
        ("price>10", [11]),
        ("price>=10.0", [10, 11]),
        ("price:4", [4]),
        ("price!=4", [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]),
        ("NOT price<11", [0, 11]),
        ("brand!=Äcme AND price<8", [6, 7]),
        ("(colour:blue OR price<2) AND NOT category:Books", [0, 6]),
        ("available:true AND weight>2.5", [11]),
        ("available:false", []),
        ("item_id:i03 OR item_id:nowhere", [3]),
        ("colour:green", []),
        ("published_at>=2024-01-01", []),
    ],
)
def test_what_is_let_through(text: str, expected: list[int]) -> None:
    assert items_of(text) == expected


def test_plain_pairs_of_one_column_are_alternatives_and_all_else_must_hold() -> None:
    assert items_of(("category", "Books"), ("category", "Toys"), "price<4") == [1, 2, 3]
    assert items_of() == list(range(NUM_ITEMS))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size:XL", "unknown column 'size'"),
        ("price<cheap", "'cheap'"),
        ("price:nan", "'nan'"),
        ("brand<Äcme", "'brand' holds texts"),
        ("available:maybe", "available:maybe"),
    ],
)
def test_what_can_not_be_compared_is_named(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        items_of(text)


def test_equal_questions_share_one_mask() -> None:
    attributes = Attributes(handmade_catalogue())
    first = attributes.mask(combined([("category", "Books"), parse_filter("price<5 AND brand:Äcme")]))
    again = attributes.mask(
        combined([parse_filter("brand:Äcme"), parse_filter("category:Books"), parse_filter("price<5")])
    )
    assert first is again
    assert not first.flags.writeable


@given(FILTERS, FILTERS)
def test_equal_filters_have_equal_hashes(one: Filter, other: Filter) -> None:
    assert hash(one) == hash(parse_filter(str(one)))
    assert (one == other) <= (hash(one) == hash(other))
