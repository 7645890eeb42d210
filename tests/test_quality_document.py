"""Regions of a document: what is between the markers is written, all else stays byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality.document import markers, with_regions

PROSE = st.text(st.characters(exclude_characters="<", codec="utf-8"))


@given(PROSE, PROSE, PROSE, PROSE)
def test_prose_survives(before: str, between: str, after: str, content: str) -> None:
    (a, end_a), (b, end_b) = markers("a"), markers("b")
    text = f"{before}{a}old{end_a}{between}{b}older{end_b}{after}"
    done = with_regions(text, {"b": content, "a": r"\1 new"})
    expected = f"{before}{a}\n\\1 new\n{end_a}{between}{b}\n{content.strip()}\n{end_b}{after}"
    assert done == expected
    assert with_regions(done, {"b": content, "a": r"\1 new"}) == done


@pytest.mark.parametrize("text", ["", "<!-- quality:a -->", "<!-- /quality:a --><!-- quality:a -->"])
def test_a_document_without_the_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="needs the lines <!-- quality:a --> and <!-- /quality:a -->"):
        with_regions(text, {"a": "new"})


def test_a_region_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="once each"):
        with_regions(2 * "".join(markers("a")), {"a": "new"})
