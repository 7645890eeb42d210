"""Tables: ids become rows and back, texts are joined in order, and selecting events changes nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.tables import Catalogue, Dataset, Events, IdIndex, Rejected

any_id = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
unique_ids = st.lists(any_id, unique=True, max_size=30)


@settings(deadline=None)
@given(unique_ids)
def test_ids_and_rows_are_inverse(ids):
    index = IdIndex(ids)
    assert len(index) == len(ids)
    assert [index.row(i) for i in ids] == list(range(len(ids)))
    assert index.rows(ids).tolist() == list(range(len(ids)))
    assert index.ids.tolist() == ids


@settings(deadline=None)
@given(unique_ids, st.lists(any_id, max_size=10))
def test_unknown_ids_have_row_minus_one(ids, asked):
    index = IdIndex(ids)
    expected = [ids.index(i) if i in ids else -1 for i in asked]
    got = index.rows(asked)
    assert got.tolist() == expected
    assert got.dtype == np.int64
    assert [i in index for i in asked] == [i in ids for i in asked]


def test_ids_that_look_like_one_number_stay_different():
    index = IdIndex(["1", "01", "1.0", " 1", "١", "é", "e\u0301"])
    assert index.rows(["01", "1", "e\u0301"]).tolist() == [1, 0, 6]


def test_one_unknown_id_is_a_key_error():
    with pytest.raises(KeyError):
        IdIndex(["a"]).row("b")


def test_an_id_twice_is_refused_by_name():
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        IdIndex(["a", "b", "a"])


@pytest.fixture
def catalogue() -> Catalogue:
    frame = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "title": ["Red cup", ""],
            "category": pd.Series([("Cups", "Red"), ()], dtype=object),
            "price": [2.5, np.nan],
        }
    )
    return Catalogue(IdIndex(["a", "b"]), frame)


def test_texts_join_the_filled_columns_in_the_order_asked(catalogue):
    assert catalogue.texts(["title", "brand", "category"]) == ["Red cup. Cups, Red", ""]
    assert catalogue.texts(["category", "price", "title"]) == ["Cups, Red. 2.5. Red cup", ""]


def test_texts_of_columns_that_are_not_there_are_empty(catalogue):
    assert catalogue.texts(["brand"]) == ["", ""]


def make_events(extra: pd.DataFrame | None = None) -> Events:
    return Events(
        np.array([0, 1, 0], np.int32), np.array([2, 2, 1], np.int32), np.array([0, 1, 0], np.int16),
        np.array([10.0, 20.0, 20.0]), np.array([1, 2, 3], np.float32), ("view", "buy"), "timestamp",
        pd.DataFrame() if extra is None else extra,
    )  # fmt: skip


def test_before_is_strict():
    events = make_events()
    assert len(events.before(10.0)) == 0
    assert events.before(20.0).times.tolist() == [10.0]
    assert len(events.before(20.1)) == 3


def test_select_keeps_every_column_aligned():
    events = make_events(pd.DataFrame({"query": ["x", "y", "z"]}))
    chosen = events.select(np.array([True, False, True]))
    assert (chosen.user_rows.tolist(), chosen.item_rows.tolist()) == ([0, 0], [2, 1])
    assert (chosen.kinds.tolist(), chosen.values.tolist()) == ([0, 0], [1.0, 3.0])  # noqa: PD011
    assert chosen.extra["query"].tolist() == ["x", "z"]
    assert chosen.extra.index.tolist() == [0, 1]
    assert chosen.kind_names == events.kind_names
    assert chosen.has_clock


def test_rejected_rows_are_counted_by_table_and_reason():
    frame = pd.DataFrame(
        {
            "table": ["events"] * 3,
            "line": [1, 2, 3],
            "reason": ["no time", "no time", "bad value"],
            "value": ["", "", "x"],
        }
    )
    assert Rejected(frame).counts() == {"events: no time": 2, "events: bad value": 1}
    assert Rejected(frame.iloc[:0]).counts() == {}


def test_a_split_changes_the_events_alone(catalogue):
    dataset = Dataset(catalogue, make_events(), IdIndex(["u", "v"]), Rejected(pd.DataFrame()), "abc")
    split = dataset.with_events(dataset.events.before(20.0))
    assert len(split.events) == 1
    assert len(dataset.events) == 3
    assert (split.catalogue, split.users, split.fingerprint) == (catalogue, dataset.users, "abc")
