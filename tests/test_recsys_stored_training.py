"""Training data with a store's events: each once, and none from before a user was forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import world
from features.tables import Dataset
from recsys.__main__ import _run
from recsys.bundle import load_bundle
from recsys.errors import DataError
from recsys.event_files import import_events
from recsys.stored_training import with_stored_events
from recsys.stores.base import Event
from recsys.stores.sql import SqlEventStore

LATER = world.START + 100.0 * world.DAY


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    opened = SqlEventStore.open(str(tmp_path / "events.sqlite"))
    yield opened
    opened.close()


def test_what_came_since_is_added(store: SqlEventStore, tiny_dataset: Dataset) -> None:
    store.append([
        Event("new", "space-03", LATER, "view", 2.0), Event("u000", "space-04", LATER + 1), Event("x", "unknown", LATER)
    ])  # fmt: skip
    joined, unknown = with_stored_events(tiny_dataset, store)
    assert (len(joined.events), unknown) == (len(tiny_dataset.events) + 2, 1)
    assert "new" in joined.users
    assert "x" not in joined.users
    assert joined.users.ids[joined.events.user_rows[-2:]].tolist() == ["new", "u000"]
    assert joined.events.kind_names == ("interaction", "purchase", "view")
    assert np.all(np.diff(joined.events.times) >= 0)
    assert joined.fingerprint != tiny_dataset.fingerprint


def test_what_is_in_both_counts_once(store: SqlEventStore, tiny_dataset: Dataset, tiny_folder: Path) -> None:
    import_events(store, tiny_folder / "events.csv")
    joined, _ = with_stored_events(tiny_dataset, store)
    assert len(joined.events) == len(tiny_dataset.events)
    assert joined.users.ids.tolist() == tiny_dataset.users.ids.tolist()
    assert joined.events.item_rows.tolist() == tiny_dataset.events.item_rows.tolist()


def test_an_empty_store_changes_no_event(store: SqlEventStore, tmp_path: Path) -> None:
    """Not even one that the data hold twice, without ids."""
    (tmp_path / "items.csv").write_text("item_id\ni\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,query\nu,i,1700000000,boots\nu,i,1700000000,\n")
    joined, _ = with_stored_events(Dataset.load(tmp_path), store)
    assert joined.events.times.tolist() == [1_700_000_000.0] * 2
    assert joined.events.extra["query"].tolist() == ["boots", ""]


def test_only_the_event_types_asked_for_are_taken(store: SqlEventStore, tiny_dataset: Dataset) -> None:
    store.append([Event("new", "space-03", LATER, "view"), Event("new", "space-04", LATER, "purchase")])
    joined, _ = with_stored_events(tiny_dataset, store, ["purchase"])
    assert joined.events.kind_names == ("purchase",)
    assert len(joined.events) == len(tiny_dataset.events) + 1


def test_the_command_learns_from_the_store(tiny_folder: Path, store: SqlEventStore, tmp_path: Path) -> None:
    store.append([Event("new", "space-03", LATER, "purchase")])
    options = ["--set", "encoder.model=none", "--set", 'sources=["popularity"]', "--set", "ranker=by_score"]
    url = str(tmp_path / "events.sqlite")
    assert _run(["train", "--data", str(tiny_folder), "--bundle", str(tmp_path / "b"), "--store", url, *options]) == 0
    assert "new" in load_bundle(tmp_path / "b").users


def test_the_command_refuses_a_store_that_does_not_exist(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mistyped = tmp_path / "mistyped.sqlite"
    assert _run(["train", "--data", str(tiny_folder), "--bundle", str(tmp_path / "b"), "--store", str(mistyped)]) == 2
    assert f"{mistyped}: there is no such file; correct --store" in capsys.readouterr().err
    assert not mistyped.exists()


def test_the_same_event_id_counts_once(store: SqlEventStore, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\ni\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,event_id\nu,i,1700000000,e1\nu,i,1700000005,\n")
    store.append([Event("u", "i", 1_700_000_009.0, event_id="e1"), Event("u", "i", 1_700_000_010.0, event_id="e2")])
    joined, _ = with_stored_events(Dataset.load(tmp_path), store)
    assert joined.events.times.tolist() == [1_700_000_000.0, 1_700_000_005.0, 1_700_000_010.0]


def test_a_forgotten_user_is_learned_from_no_more(store: SqlEventStore, tiny_dataset: Dataset) -> None:
    store.forget("u000", at=LATER)
    store.append([Event("u000", "space-04", LATER + 1)])
    joined, _ = with_stored_events(tiny_dataset, store)
    assert len(joined.events) == len(tiny_dataset.events) - world.EVENTS_PER_USER + 1
    row = joined.users.row("u000")
    assert joined.events.times[joined.events.user_rows == row].tolist() == [LATER + 1]


def test_without_a_clock_there_is_nothing_to_join_by(store: SqlEventStore, tmp_path: Path) -> None:
    dataset = Dataset.load(world.write_world(tmp_path / "w", clock=False))
    with pytest.raises(DataError, match="timestamp"):
        with_stored_events(dataset, store)
