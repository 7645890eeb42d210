"""What every event store promises, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, inspect, text

from postgres import new_database
from recsys.errors import SettingsError, StoreError
from recsys.stores.base import Event
from recsys.stores.migrate import HEAD
from recsys.stores.schema import METADATA
from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore

Open = Callable[..., SqlEventStore]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "events.sqlite")
    else:
        with new_database(request.getfixturevalue("postgres_url")) as made:
            yield made


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    """Opens stores at the same URL, and closes them at the end."""
    stores: list[SqlEventStore] = []

    def open_(**settings: object) -> SqlEventStore:
        stores.append(SqlEventStore.open(url, StoreSettings.model_validate(settings)))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Open) -> SqlEventStore:
    return opened()


def events(count: int, *, user: str = "u", start: int = 0) -> list[Event]:
    return [Event(user, f"i{k}", 1000.0 + k, event_id=f"{user}-{k}") for k in range(start, start + count)]


class TestEvents:
    def test_an_event_comes_back_as_it_went_in(self, store: SqlEventStore) -> None:
        given = Event("Ünï ☃", "it'em\n", 1.5, "purchase", 2.0, "e1", "s1", "r1", "größe 10")
        assert store.append([given]) == ["accepted"]
        assert store.changes(0).events == ((1, given),)

    def test_an_event_is_stored_once_however_often_it_is_sent(self, store: SqlEventStore) -> None:
        assert store.append(events(2)) == ["accepted", "accepted"]
        assert store.append([*events(3), *events(3)]) == ["duplicate"] * 2 + ["accepted"] + ["duplicate"] * 3
        assert len(store.history("u")) == 3
        assert store.head() == 3

    def test_an_event_without_an_id_is_known_by_user_item_kind_and_time(self, store: SqlEventStore) -> None:
        first = Event("u", "i", 1.0)
        others = [Event("v", "i", 1.0), Event("u", "j", 1.0), Event("u", "i", 2.0), Event("u", "i", 1.0, "view")]
        assert store.append([first, *others]) == ["accepted"] * 5
        assert store.append([Event("u", "i", 1.0, value=7.0)]) == ["duplicate"]

    def test_joined_ids_are_not_mixed_up(self, store: SqlEventStore) -> None:
        assert store.append([Event("ab", "c", 1.0), Event("a", "bc", 1.0)]) == ["accepted", "accepted"]

    def test_nothing_is_nothing(self, store: SqlEventStore) -> None:
        assert store.append([]) == []
        assert (store.head(), store.newest_time(), len(store.history("u"))) == (0, None, 0)

    def test_a_failed_write_leaves_nothing(self, store: SqlEventStore) -> None:
        bad = Event("u", None, 2.0, event_id="bad")  # type: ignore[arg-type]
        with pytest.raises(StoreError):
            store.append([*events(2), bad])
        assert (store.head(), len(store.history("u"))) == (0, 0)
        assert store.append(events(2)) == ["accepted", "accepted"]

    def test_thousands_at_once(self, store: SqlEventStore) -> None:
        assert set(store.append(events(12_000))) == {"accepted"}
        assert set(store.append(events(12_000))) == {"duplicate"}
        assert store.newest_time() == 12_999.0

    def test_another_store_sees_it_at_once(self, store: SqlEventStore, opened: Open) -> None:
        other = opened()
        store.append(events(1))
        assert other.history("u").item_ids == ("i0",)


class TestHistory:
    def test_it_is_the_users_own_oldest_first(self, store: SqlEventStore) -> None:
        store.append([Event("u", "late", 9.0, "cart"), Event("v", "other", 5.0), Event("u", "early", 3.0, "view")])
        found = store.history("u")
        assert (found.item_ids, found.kinds, found.times) == (("early", "late"), ("view", "cart"), (3.0, 9.0))
        assert found.forgotten_at is None

    def test_what_happens_at_the_time_asked_for_is_not_known_yet(self, store: SqlEventStore) -> None:
        store.append(events(3))
        assert store.history("u", before=1002.0).item_ids == ("i0", "i1")

    def test_it_can_be_asked_for_as_it_was(self, store: SqlEventStore) -> None:
        store.append(events(2))
        then = store.head()
        store.append(events(2, start=2))
        assert store.history("u", up_to=then).item_ids == ("i0", "i1")

    def test_the_newest_are_kept_where_there_are_too_many(self, opened: Open) -> None:
        store = opened(max_history=2)
        store.append(list(reversed(events(5))))
        assert store.history("u").item_ids == ("i3", "i4")


class TestChanges:
    def test_they_come_in_order_and_in_pieces_without_a_gap(self, store: SqlEventStore) -> None:
        store.append(events(7))
        found: list[str] = []
        after = 0
        for _ in range(4):
            changes = store.changes(after, limit=3)
            after = changes.sequence
            found += [event.item_id for _, event in changes.events]
        assert found == [f"i{k}" for k in range(7)]
        assert store.changes(after).events == ()

    def test_a_reader_misses_nothing_while_many_write(self, store: SqlEventStore, opened: Open) -> None:
        """On PostgreSQL the numbers of a plain sequence become visible out of order, and a reader who has seen 8 would
        never see 7.
        """
        writers = [opened() for _ in range(3)]

        def write(number: int) -> None:
            for k in range(40):
                writers[number].append(events(2, user=f"u{number}", start=2 * k))

        seen: list[int] = []
        after = 0
        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(write, number) for number in range(3)]
            while not all(job.done() for job in jobs) or store.head() > after:
                changes = store.changes(after)
                seen += [number for number, _ in changes.events]
                after = changes.sequence
                time.sleep(0.002)  # a reader that never rests keeps the interpreter from the writers
            for job in jobs:
                job.result()
        assert seen == list(range(1, 241))

    def test_every_writer_has_its_turn_where_commits_take_long(self, opened: Open) -> None:
        """A writer that never rests, on a slow disk, leaves others room within their time. The commits' length is out
        of step with the 100 ms of SQLite's own waiting, which would hide that it starves.
        """
        busy, other = opened(), opened(write_timeout=1.5)
        for store in (busy, other):
            event.listen(store._engines.writer, "commit", lambda _: time.sleep(0.07))
        done = threading.Event()

        def write_on() -> int:
            number = 0
            while not done.is_set():
                busy.append(events(1, user="busy", start=number))
                number += 1
            return number

        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(write_on)
            try:
                for k in range(10):
                    assert other.append(events(1, user="other", start=k)) == ["accepted"]
            finally:
                done.set()
        assert other.head() == 10 + job.result()

    def test_live_counters_start_at_the_newest_events(self, store: SqlEventStore) -> None:
        store.append(events(10))
        assert store.live_start(since=0.0, max_events=4) == 6
        assert store.live_start(since=0.0, max_events=10) == 0
        assert store.live_start(since=1007.0, max_events=10) == 7
        assert store.live_start(since=5000.0, max_events=10) == 10

    def test_a_reader_of_an_earlier_state_finds_what_there_was_then(self, store: SqlEventStore) -> None:
        store.append(events(6))
        state = store.head()
        store.append(events(200, start=6))
        assert store.live_start(since=0.0, max_events=4, up_to=state) == 2
        assert store.live_start(since=1004.0, max_events=10, up_to=state) == 4
        assert store.live_start(since=5000.0, max_events=10, up_to=state) == state
        found = store.changes(2, up_to=state)
        assert ([number for number, _ in found.events], found.sequence) == ([3, 4, 5, 6], state)
        assert store.changes(state, up_to=state).events == ()
        assert store.changes(2, limit=3, up_to=state).sequence == 5

    def test_searches_are_the_newest_events_with_a_query_in_order(self, store: SqlEventStore) -> None:
        rows = [Event("u", f"i{k}", 1000.0 + k, query="tea" if k % 2 else None) for k in range(10)]
        store.append(rows)
        found = [event.item_id for event in store.searched(since=0.0, max_events=3, up_to=8)]
        assert found == ["i3", "i5", "i7"]
        assert [event.query for event in store.searched(since=1009.0, max_events=3, up_to=10)] == ["tea"]
        assert store.searched(since=0.0, max_events=3, up_to=1) == []

    @pytest.mark.parametrize("reads_before", [0, 1, 2])
    def test_no_event_is_lost_that_is_written_while_the_start_is_looked_for(
        self, store: SqlEventStore, opened: Open, monkeypatch: pytest.MonkeyPatch, reads_before: int
    ) -> None:
        writer, read = opened(), store._read
        reads: list[int] = []

        def read_and_then_another_writes(*arguments: Any) -> Any:
            rows = read(*arguments)
            if len(reads) == reads_before:
                writer.append(events(1))
            reads.append(len(rows))
            return rows

        monkeypatch.setattr(store, "_read", read_and_then_another_writes)
        start = store.live_start(since=0.0, max_events=10)
        assert len(reads) > reads_before
        assert [event for _, event in store.changes(start).events] == events(1)


class TestForgetting:
    def test_a_forgotten_user_starts_afresh(self, store: SqlEventStore) -> None:
        store.append([*events(3), *events(1, user="v")])
        assert store.forget("u", at=2000.0) == 3
        assert (len(store.history("u")), store.history("u").forgotten_at) == (0, 2000.0)
        assert len(store.history("v")) == 1
        assert store.append([Event("u", "new", 2000.0)]) == ["accepted"]
        assert store.history("u").item_ids == ("new",)

    def test_what_is_delivered_late_stays_forgotten(self, store: SqlEventStore) -> None:
        store.append(events(1))
        store.forget("u", at=2000.0)
        assert store.append([*events(2), *events(1, user="v")]) == ["forgotten", "forgotten", "accepted"]
        assert len(store.history("u")) == 0

    def test_followers_hear_of_it(self, store: SqlEventStore) -> None:
        store.append(events(1))
        after = store.head()
        store.forget("u", at=2000.0)
        changes = store.changes(after)
        assert [(f.user_id, f.at) for f in changes.forgotten] == [("u", 2000.0)]
        assert store.changes(changes.sequence).forgotten == ()
        assert store.forgotten() == list(changes.forgotten)
        assert store.forgotten(changes.sequence) == []

    def test_forgetting_again_never_brings_anything_back(self, store: SqlEventStore) -> None:
        """A clock that jumped back must not reveal what was hidden."""
        store.forget("nobody", at=2000.0)
        store.forget("nobody", at=1000.0)
        assert store.history("nobody").forgotten_at == 2000.0


class TestItems:
    def test_the_newest_state_of_each_in_order_of_writing(self, store: SqlEventStore) -> None:
        first = store.put_items({"a": {"title": "Ä"}, "b": {"price": 1.5, "tags": ["x", None]}})
        assert [(item.item_id, item.document) for item in store.items_since(0)] == [
            ("a", {"title": "Ä"}),
            ("b", {"price": 1.5, "tags": ["x", None]}),
        ]
        store.put_items({"a": {"title": "B"}})
        store.delete_item("b")
        store.delete_item("never known")
        later = store.items_since(first)
        assert [(item.item_id, item.document) for item in later] == [
            ("a", {"title": "B"}),
            ("b", None),
            ("never known", None),
        ]
        assert store.items_since(later[-1].sequence) == []
        assert len(store.items_since(0, limit=2)) == 2

    def test_a_deleted_item_can_come_back(self, store: SqlEventStore) -> None:
        store.put_items({"a": {}})
        store.delete_item("a")
        store.put_items({"a": {"title": "again"}})
        assert [item.document for item in store.items_since(0)] == [{"title": "again"}]

    def test_items_and_events_share_one_number(self, store: SqlEventStore) -> None:
        store.append(events(2))
        assert store.put_items({"a": {}}) == 3
        store.append(events(1, user="v"))
        assert [number for number, _ in store.changes(2).events] == [4]


class TestRetention:
    def test_without_limits_all_stays(self, opened: Open) -> None:
        store = opened(max_events=None)
        store.append(events(5))
        assert store.prune(now=1e12) == 0
        assert len(store.history("u")) == 5

    def test_old_events_go(self, opened: Open) -> None:
        store = opened(retention_days=1.0)
        store.append(events(5))
        assert store.prune(now=1002.0 + 86_400.0) == 2
        assert store.history("u").item_ids == ("i2", "i3", "i4")
        assert store.prune(now=1002.0 + 86_400.0) == 0

    def test_no_more_events_than_allowed_stay_however_few_go_at_a_time(self, opened: Open) -> None:
        store = opened(max_events=3)
        store.append(events(10))
        removed = [store.prune(now=0.0, max_rows=4) for _ in range(3)]
        assert removed == [4, 3, 0]
        assert store.history("u").item_ids == ("i7", "i8", "i9")

    def test_numbers_are_never_given_twice(self, opened: Open) -> None:
        store = opened(max_events=1)
        store.append(events(3))
        store.prune(now=0.0)
        store.append(events(1, user="v"))
        assert store.head() == 4


class TestOpening:
    def test_opening_again_keeps_what_is_there(self, store: SqlEventStore, opened: Open) -> None:
        store.append(events(2))
        store.close()
        assert len(opened().history("u")) == 2
        assert len(store.history("u")) == 2, "a closed store opens connections anew"

    def test_who_only_reads_opens_what_is_there_and_makes_nothing(self, url: str, opened: Open) -> None:
        for _ in range(2):
            with pytest.raises(SettingsError, match="correct --store"):
                SqlEventStore.open(url, create=False)
        opened().append(events(2))
        reading = SqlEventStore.open(url, create=False)
        assert reading.head() == 2
        reading.close()

    def test_many_processes_may_open_an_empty_database_at_once(self, url: str) -> None:
        program = "import sys; from recsys.stores.sql import SqlEventStore as S; S.open(sys.argv[1]).close()"
        command = [sys.executable, "-W", "error", "-c", program, url]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        started = [subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) for _ in range(4)]
        said = [process.communicate(timeout=60)[1].decode() for process in started]
        assert [process.returncode for process in started] == [0] * 4, said

    def test_a_forked_child_has_connections_of_its_own(self, store: SqlEventStore) -> None:
        store.append(events(1))
        child = multiprocessing.get_context("fork").Process(target=_append_in_child, args=(store,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert store.append(events(3)) == ["duplicate", "duplicate", "accepted"]

    def test_the_tables_are_what_the_queries_take_them_for(self, store: SqlEventStore) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        with store._engines.reader.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD

    def test_a_store_of_the_first_version_is_brought_to_this_one(self, store: SqlEventStore, opened: Open) -> None:
        store.append(events(2))
        with store._writing() as connection:
            connection.execute(text("DROP INDEX events_with_query"))
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        newer = opened()
        assert len(newer.history("u")) == 2
        with newer._engines.reader.connect() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD
            assert "events_with_query" in {index["name"] for index in inspect(connection).get_indexes("events")}

    def test_a_store_of_a_newer_version_is_refused(self, store: SqlEventStore, opened: Open) -> None:
        with store._writing() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(StoreError, match="9999"):
            opened()


def _append_in_child(store: SqlEventStore) -> None:
    assert store.append(events(2)) == ["duplicate", "accepted"]
    store.close()


class TestSqlite:
    def test_a_full_disk_is_told_and_what_was_there_stays(self, tmp_path: Path) -> None:
        store = SqlEventStore.open(str(tmp_path / "events.sqlite"))
        store.append(events(5))
        with store._engines.writer.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreError, match="full"):
            store.append(events(5000, user="v"))
        assert (store.head(), len(store.history("u")), len(store.history("v"))) == (5, 5, 0)
        with store._engines.writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert set(store.append(events(5000, user="v"))) == {"accepted"}
        store.close()

    def test_a_store_that_is_locked_refuses_writes_and_answers_reads(self, tmp_path: Path) -> None:
        store = SqlEventStore.open(str(tmp_path / "events.sqlite"), StoreSettings(write_timeout=0.1))
        other = SqlEventStore.open(str(tmp_path / "events.sqlite"))
        store.append(events(1))
        with other._writing():
            with pytest.raises(StoreError, match="locked"):
                store.append(events(2))
            assert len(store.history("u")) == 1
        assert store.append(events(2)) == ["duplicate", "accepted"]
        store.close()
        other.close()

    def test_every_connection_waits_for_the_disk(self, tmp_path: Path) -> None:
        store = SqlEventStore.open(str(tmp_path / "events.sqlite"))
        with store._engines.writer.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        store.close()


class TestUrls:
    @pytest.mark.parametrize("form", ["{path}", "sqlite:///{path}"])
    def test_a_path_and_a_url_are_the_same_file(self, form: str, tmp_path: Path) -> None:
        path = tmp_path / "with space.sqlite"
        store = SqlEventStore.open(form.format(path=path))
        store.append(events(1))
        store.close()
        assert path.exists()

    @pytest.mark.parametrize(
        "url", ["mysql://host/db", "sqlite://", ":memory:", "postgresql://u@h:port/x", "nonsense://"]
    )
    def test_what_is_no_store_is_refused_with_the_forms_allowed(self, url: str) -> None:
        with pytest.raises(SettingsError, match="sqlite:///PATH"):
            SqlEventStore.open(url)

    def test_a_file_without_a_store_is_refused_by_who_only_reads(self, tmp_path: Path) -> None:
        (tmp_path / "empty.sqlite").touch()
        with pytest.raises(SettingsError, match=r"empty\.sqlite: the database has no store in it"):
            SqlEventStore.open(str(tmp_path / "empty.sqlite"), create=False)
        assert (tmp_path / "empty.sqlite").stat().st_size == 0

    def test_a_folder_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="nowhere"):
            SqlEventStore.open(str(tmp_path / "nowhere" / "e.sqlite"), StoreSettings(write_timeout=0.1))

    def test_a_password_is_never_shown(self) -> None:
        store = SqlEventStore("postgresql://u:secret@127.0.0.1:1/db", StoreSettings(read_timeout=0.1))
        with pytest.raises(StoreError) as caught:
            store.head()
        assert "secret" not in str(caught.value)
