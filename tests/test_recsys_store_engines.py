"""How the processes that write one SQLite file take turns; what a store promises is in `contracts`."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from recsys.stores import engines
from recsys.stores.engines import _Turns, make_engines, store_url
from recsys.stores.settings import StoreSettings


class Clock:
    """Stands in for `time`: sleeping moves it, and is written down."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class FileLock:
    """A connection whose file somebody else holds `until` then."""

    def __init__(self, clock: Clock, until: float = 0.0) -> None:
        self.clock, self.until = clock, until

    def exec_driver_sql(self, statement: str) -> None:
        if statement == "BEGIN IMMEDIATE" and self.clock.now < self.until:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorname = "SQLITE_BUSY"
            raise OperationalError(statement, {}, error)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(engines, "time", made)
    return made


def begin(turns: _Turns, lock: Any) -> None:
    turns.begin(lock)


def written(clock: Clock, lock: FileLock, held: float) -> _Turns:
    """After a transaction of so many seconds."""
    turns = _Turns(5.0)
    begin(turns, lock)
    clock.now += held
    turns.end()
    return turns


def stood_back(clock: Clock, turns: _Turns, lock: FileLock) -> list[float]:
    """How long the next transaction waited before it tried."""
    clock.slept.clear()
    begin(turns, lock)
    return clock.slept


@pytest.mark.parametrize(("held", "pause"), [(0.0, 0.0), (0.001, 0.0001), (0.03, 0.003), (1.0, 0.004)])
def test_whoever_has_written_leaves_the_file_to_others_for_a_moment(clock: Clock, held: float, pause: float) -> None:
    lock = FileLock(clock)
    assert stood_back(clock, written(clock, lock, held), lock) == pytest.approx([pause])


def test_whoever_comes_later_does_not_wait(clock: Clock) -> None:
    lock = FileLock(clock)
    turns = written(clock, lock, 1.0)
    clock.now += 0.01
    assert stood_back(clock, turns, lock) == [0.0]


def test_whoever_was_refused_does_not_stand_back(clock: Clock) -> None:
    lock = FileLock(clock)
    turns = written(clock, lock, 1.0)
    clock.now += 1.0
    lock.until = clock.now + 60
    with pytest.raises(OperationalError):
        begin(turns, lock)
    turns.end()
    lock.until = 0.0
    assert stood_back(clock, turns, lock) == [0.0]


def test_a_locked_file_is_tried_every_few_milliseconds(clock: Clock) -> None:
    turns, lock = _Turns(5.0), FileLock(clock)
    lock.until = clock.now + 1.0
    begin(turns, lock)
    assert lock.until <= clock.now < lock.until + 0.005


def test_all_other_statements_wait_as_long_as_they_may(tmp_path: Path) -> None:
    """Not only BEGIN meets a lock: so do the first statements of a connection, before it."""
    path = tmp_path / "events.sqlite"
    made = make_engines(store_url(str(path)), StoreSettings())
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        released = threading.Event()

        def release() -> None:
            released.set()
            other.execute("COMMIT")

        timer = threading.Timer(0.3, release)
        timer.start()
        with made.writer.begin() as connection:
            assert released.is_set()
            assert patience(connection) == 5000
        timer.join()
        made.dispose(close=True)


def patience(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one())
