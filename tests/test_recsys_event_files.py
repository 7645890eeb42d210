"""Files of events: in and out again without loss, bad rows named, none stored twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from features.errors import DataError
from features.tables import Dataset
from recsys.__main__ import _run
from recsys.errors import RequestError
from recsys.event_files import export_events, import_events
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.request_history import StoreReader
from recsys.requests import Request
from recsys.stores.base import Event
from recsys.stores.sql import SqlEventStore

EVENTS = [
    Event("Ünï ☃", 'it"em, 1\nx', 1_700_000_000.125, "purchase", 2.5, "e1", "s", "r", "a, b"),
    Event("u", "i", 1_700_000_001.0, "view", 1.0, "e2"),
    Event("u", "0012", 12.0, "view", -3.0, "007"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlEventStore]:
    opened = SqlEventStore.open(str(tmp_path / "events.sqlite"))
    yield opened
    opened.close()


def stored(store: SqlEventStore) -> list[Event]:
    return [event for _, event in store.changes(0).events]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_what_is_exported_can_be_imported(store: SqlEventStore, tmp_path: Path, suffix: str) -> None:
    store.append(EVENTS)
    out = tmp_path / f"out{suffix}"
    assert export_events(store, out) == 3
    other = SqlEventStore.open(str(tmp_path / "other.sqlite"))
    report = import_events(other, out)
    assert (report.accepted, report.duplicates, len(report.rejected)) == (3, 0, 0)
    assert stored(other) == EVENTS
    assert import_events(other, out).duplicates == 3
    assert stored(other) == EVENTS
    other.close()


def test_an_empty_store_gives_a_file_without_rows(store: SqlEventStore, tmp_path: Path) -> None:
    assert export_events(store, tmp_path / "out.parquet") == 0
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 0


def test_a_data_folder_can_be_made_of_it(store: SqlEventStore, tmp_path: Path) -> None:
    store.append(EVENTS[1:])
    export_events(store, tmp_path / "events.parquet")
    (tmp_path / "items.csv").write_text("item_id\ni\n0012\n")
    dataset = Dataset.load(tmp_path)
    assert (len(dataset.events), len(dataset.rejected)) == (2, 0)


def test_the_example_data_can_be_imported_and_repeated(store: SqlEventStore, tiny_folder: Path) -> None:
    report = import_events(store, tiny_folder / "events.csv")
    assert (report.accepted, len(report.rejected)) == (640, 0)
    assert import_events(store, tiny_folder / "events.csv").duplicates == 640


def test_events_that_the_model_was_trained_on_change_nothing_when_they_are_stored_too(
    store: SqlEventStore, tiny_folder: Path, tiny_model: FittedModel
) -> None:
    import_events(store, tiny_folder / "events.csv")
    requests = [Request(user=user, n=10) for user in tiny_model.users.ids]
    without = Recommender(tiny_model).recommend_many(requests)
    assert Recommender(tiny_model, store=StoreReader(store)).recommend_many(requests) == without


def test_bad_rows_are_named_and_the_others_stored(store: SqlEventStore, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    good = "".join(f"u{k},i,{1_700_000_000 + k}\n" for k in range(50))
    path.write_text(f"user_id,item_id,timestamp\n{good},i,1700000000\nu,i,soon\n{'x' * 3000},i,1700000000\n")
    report = import_events(store, path, rejected_file=tmp_path / "rejected.csv")
    assert (report.accepted, len(report.rejected)) == (50, 3)
    reasons = pd.read_csv(tmp_path / "rejected.csv").set_index("line")["reason"].to_dict()
    assert reasons == {51: "no user_id", 52: "unparsable time", 53: "user_id is longer than 2048 bytes"}


def test_a_query_that_is_too_long_is_named(store: SqlEventStore, tmp_path: Path) -> None:
    """As `POST /events` would; a letter is a letter, however many bytes it takes."""
    path = tmp_path / "in.csv"
    good = "".join(f"u{k},i,{1_700_000_000 + k},{'ü' * 1024}\n" for k in range(20))
    path.write_text(f"user_id,item_id,timestamp,query\n{good}v,i,1700000000,{'x' * 1025}\n", encoding="utf-8")
    report = import_events(store, path)
    assert (report.accepted, report.rejected.frame["reason"].tolist()) == (20, ["query is longer than 1024 characters"])
    assert {event.query for event in stored(store)} == {"ü" * 1024}


@pytest.mark.parametrize("name", ["event", "event_id", "session_id", "request_id", "query"])
def test_a_nul_or_half_a_character_is_named(store: SqlEventStore, tmp_path: Path, name: str) -> None:
    """As `POST /events` would: PostgreSQL could not store it, and the import would end in the middle."""
    rows = [{"user_id": f"u{k}", "item_id": "i", "timestamp": 1_700_000_000 + k} for k in range(30)]
    rows += [rows[0] | {name: "a\0b"}, rows[0] | {name: "a\ud83db"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_events(store, tmp_path / "in.jsonl")
    assert report.accepted == 30
    assert report.rejected.frame["line"].tolist() == [31, 32]
    assert set(report.rejected.frame["reason"]) == {f"{name} holds a NUL or broken character"}


def test_a_file_that_is_mostly_bad_stores_nothing(store: SqlEventStore, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("user_id,item_id,timestamp\nu,i,1700000000\nu,i,soon\n")
    with pytest.raises(DataError, match="unparsable time"):
        import_events(store, path)
    assert store.head() == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in.csv", "user_id,item_id,sequence\nu,i,1\n", "timestamp"),
        ("in.csv", "user_id,timestamp\nu,1\n", "item_id"),
        ("in.xlsx", "x", ".parquet"),
        ("in.csv", "", "empty"),
    ],
)
def test_what_is_no_file_of_events_is_refused(
    store: SqlEventStore, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        import_events(store, tmp_path / name)


@pytest.mark.parametrize("out", ["x.xlsx", "nowhere/x.csv"])
def test_an_out_that_cannot_be_written_is_refused_before_the_work(
    store: SqlEventStore, tmp_path: Path, out: str
) -> None:
    with pytest.raises(RequestError, match="out"):
        export_events(store, tmp_path / out)


def test_the_commands(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(tmp_path / "events.sqlite")
    assert _run(["events", "import", "--store", url, str(tiny_folder / "events.csv")]) == 0
    assert "640 events stored, 0 were there already" in capsys.readouterr().out
    assert _run(["events", "export", "--store", url, "--out", str(tmp_path / "out.jsonl")]) == 0
    assert "640 events written" in capsys.readouterr().out
    assert _run(["events", "export", "--store", "mysql://x/y", "--out", str(tmp_path / "out.jsonl")]) == 2
    assert "sqlite:///PATH" in capsys.readouterr().err


def test_an_export_from_a_store_that_does_not_exist_is_refused_and_makes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mistyped = tmp_path / "out.jsonl", tmp_path / "mistyped.sqlite"
    assert _run(["events", "export", "--store", str(mistyped), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{mistyped}: there is no such file; correct --store" in said
    assert list(tmp_path.iterdir()) == []
