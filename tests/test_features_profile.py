"""Profile: every figure against a tiny shop whose counts can be done by hand."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from features.profile import profile, render
from features.reading import DataSettings, read_dataset
from features.tables import Dataset

ITEMS = """item_id,title,description,category,brand,price,size
a,Red cup,A cup that is red,Cups | Red,Acme,2.5,S
b,Blue cup,,Cups,,cheap,
c,Tea,Green tea leaves,,,3,L
d,,,,,,
"""
EVENTS = """user_id,item_id,event,timestamp
u,a,view,100
u,a,purchase,200
u,b,purchase,200
u,b,purchase,200
v,a,view,50
v,c,[bold]odd,86400
v,nope,view,86400
"""


@pytest.fixture
def shop(tmp_path) -> Dataset:
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "events.csv").write_text(EVENTS)
    return read_dataset(tmp_path, DataSettings(max_rejected=0.5))


def test_counts(shop):
    found = profile(shop)
    assert (found["users"], found["items"], found["events"], found["clock"]) == (2, 4, 6, "timestamp")
    assert list(found["events_by_type"].items()) == [("purchase", 3), ("view", 2), ("[bold]odd", 1)]
    assert found["time_range"] == {"first": "1970-01-01T00:00:50Z", "last": "1970-01-02T00:00:00Z"}
    assert (found["cold_items"], found["available_items"]) == (1, 4)
    assert found["fingerprint"] == shop.fingerprint


def test_pairs_repeats_and_duplicates(shop):
    """Pairs are ua, ub, va, vc: 4 of 2 x 4. Two of six events repeat a pair; one row says the same as another."""
    found = profile(shop)
    assert (found["pairs"], found["density"]) == (4, 0.5)
    assert found["repeat_rate"] == pytest.approx(2 / 6)
    assert found["duplicate_events"] == 1


def test_rows_that_differ_by_an_event_id_are_no_duplicates(tmp_path):
    (tmp_path / "items.csv").write_text("item_id\na\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,event_id\nu,a,1,x\nu,a,1,y\n")
    assert profile(Dataset.load(tmp_path))["duplicate_events"] == 0


def test_moments_are_distinct_times_of_a_user(shop):
    """u has events at 100 and 200 (a basket of three), v at 50 and 86400."""
    found = profile(shop)
    assert found["moments_per_user"] == {"min": 2, "median": 2, "mean": 2, "p95": 2, "max": 2}
    assert (found["events_per_user"]["min"], found["events_per_user"]["max"], found["events_per_user"]["mean"]) == (
        2,
        4,
        3,
    )
    assert (found["events_per_item"]["min"], found["events_per_item"]["median"]) == (0, 1.5)


def test_coverage_and_lengths_of_texts(shop):
    columns = profile(shop)["columns"]
    assert list(columns) == ["title", "description", "category", "brand", "price", "published_at", "size"]
    assert [columns[c]["coverage"] for c in columns] == [0.75, 0.5, 0.5, 0.25, 0.5, 0.0, 0.5]
    assert (columns["title"]["median_words"], columns["description"]["median_words"]) == (2, 4)
    assert columns["category"]["median_words"] == 1.5
    assert columns["title"]["p95_words"] == 2
    assert "median_words" not in columns["price"]


def test_what_was_rejected_and_what_was_mended_are_kept_apart(shop):
    found = profile(shop)
    assert found["rejected"] == {"events: unknown item": 1}
    assert found["mended"] == {"items: bad price (row kept)": 1}


def test_it_is_plain_json(shop):
    found = profile(shop)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_terminal_shows_names_as_they_are_and_no_control_characters(shop):
    found = profile(shop)
    found["events_by_type"]["\x1b[31mred"] = 1
    shown = render(found)
    for part in (
        "[bold]odd",
        "4 (1 without events)",
        "density 50 %",
        "33.3 %",
        "events: unknown item",
        "bad price (row kept)",
    ):
        assert part in shown
    assert "\x1b" not in shown
    assert max(len(line) for line in shown.splitlines()) <= 100


@pytest.mark.parametrize(
    ("header", "when"), [("timestamp", "no events"), ("sequence", "each user's own order (no timestamps)")]
)
def test_a_catalogue_without_events(tmp_path, header, when):
    (tmp_path / "items.csv").write_text("item_id\na\n")
    (tmp_path / "events.csv").write_text(f"user_id,item_id,{header}\n")
    found = profile(Dataset.load(tmp_path))
    assert (found["density"], found["repeat_rate"], found["time_range"], found["events_per_user"]) == (None,) * 4
    assert (found["cold_items"], found["duplicate_events"], found["rejected"]) == (1, 0, {})
    json.dumps(found, allow_nan=False)
    assert when in render(found)


def test_profiling_changes_nothing(shop):
    before = (shop.catalogue.frame.copy(), shop.events.times.copy())
    profile(shop)
    pd.testing.assert_frame_equal(shop.catalogue.frame, before[0])
    assert shop.events.times.tolist() == before[1].tolist()
