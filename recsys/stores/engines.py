"""From a store's URL to connections: one kind that writes, one that reads without holding anything up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import QueuePool

from recsys.errors import SettingsError
from recsys.stores.settings import StoreSettings

FORMS = "a path, sqlite:///PATH, or postgresql://USER:PASSWORD@HOST/NAME"
SQLITE, POSTGRESQL = "sqlite", "postgresql"
_READERS = 8
"""Connections of a process that read at the same time; they are opened when needed."""
_JOURNAL_BYTES = 2**26
_LOOK_SECONDS = 0.002
"""How often a SQLite file that somebody else writes is tried."""
_OTHERS_SHARE, _OTHERS_SECONDS = 0.1, 2 * _LOOK_SECONDS
"""For how long, after it has written, a process leaves a SQLite file to others: a share of the time it took, at most so
many seconds.
"""


@dataclass(frozen=True)
class Engines:
    """`writer` transactions exclude each other within the process; `reader` statements are transactions of their
    own.
    """

    writer: Engine
    reader: Engine

    def dispose(self, *, close: bool) -> None:
        """Give up all pooled connections; a forked child must not `close` what is its parent's."""
        self.writer.dispose(close=close)
        self.reader.dispose(close=close)


def store_url(text: str) -> URL:
    """The URL of a store in any of the FORMS; SettingsError for others. Relative paths are made absolute."""
    if "://" not in text:
        return _sqlite_url(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError(f"store {text.partition('://')[0]}://...: not a URL; give {FORMS}") from None
    backend = url.get_backend_name()
    if backend == SQLITE:
        return _sqlite_url(url.database or "")
    if backend in (POSTGRESQL, "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise SettingsError(f"store {url.render_as_string()}: {backend!r} is no kind of store; give {FORMS}")


def _sqlite_url(path: str) -> URL:
    if path in ("", ":memory:"):
        raise SettingsError(
            f"store {path!r}: a store needs a file, else every process would have its own; give {FORMS}"
        )
    return URL.create("sqlite", database=str(Path(path).absolute()))


def make_engines(url: URL, settings: StoreSettings) -> Engines:
    """Engines that connect when they are first used."""
    return _sqlite_engines(url, settings) if url.get_backend_name() == SQLITE else _postgresql_engines(url, settings)


# --------------------------------------------------------------------------------------------------------------- SQLite


def _sqlite_engines(url: URL, settings: StoreSettings) -> Engines:
    """One connection writes: SQLite has one writer at a time, and threads that wait for it in a queue lose less time
    than threads that look again and again whether it is free. Between processes `_Turns` see to it.
    """
    writer = create_engine(
        url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=settings.write_timeout,
        connect_args={"timeout": settings.write_timeout, "check_same_thread": False},
    )  # fmt: skip
    reader = create_engine(
        url, poolclass=QueuePool, pool_size=_READERS, max_overflow=0, pool_timeout=settings.read_timeout,
        connect_args={"timeout": settings.read_timeout, "check_same_thread": False}, isolation_level="AUTOCOMMIT",
    )  # fmt: skip
    for engine in (writer, reader):
        event.listen(engine, "connect", _sqlite_connected)
    turns = _Turns(settings.write_timeout)
    event.listen(writer, "begin", turns.begin)
    event.listen(writer, "checkin", turns.end)
    return Engines(writer, reader)


def _sqlite_connected(connection: Any, _record: Any) -> None:
    """FULL: each commit waits for the disk, so that an acknowledged event outlives a power failure, too."""
    connection.isolation_level = None  # transactions begin where we say so
    for pragma in ("synchronous=FULL", f"journal_size_limit={_JOURNAL_BYTES}", "cache_size=-16384"):
        connection.execute(f"PRAGMA {pragma}")


class _Turns:
    """How the processes that write one file take turns. SQLite has no queue: it soon tries a locked file every 100 ms
    only, and where a commit takes long, whoever has just written would be first again and again, until the others'
    time is over. So a locked file is tried often, and whoever has held it leaves it alone for a moment. A process that
    writes alone pays for that, too: it can't know that nobody waits.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._taken: float | None = None
        self._again = -math.inf

    def begin(self, connection: Connection) -> None:
        """Take the write lock first: one that is taken after reading fails at once where another has it."""
        self._taken = None
        time.sleep(max(0.0, self._again - time.monotonic()))
        _set_patience(connection, _LOOK_SECONDS)
        try:
            _until(self._seconds, lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        finally:
            _set_patience(connection, self._seconds)
        self._taken = time.monotonic()

    def end(self, *_: object) -> None:
        """The lock, if it was had, was given back: for a share of the time it was held, others are first."""
        if self._taken is not None:
            ended = time.monotonic()
            self._again = ended + min(_OTHERS_SECONDS, _OTHERS_SHARE * (ended - self._taken))
            self._taken = None


def _set_patience(connection: Connection, seconds: float) -> None:
    """How long SQLite itself waits for a lock."""
    connection.exec_driver_sql(f"PRAGMA busy_timeout={max(1, round(seconds * 1000))}")


def enable_wal(engines: Engines, seconds: float) -> None:
    """Readers and the writer of a SQLite file then don't wait for each other. The file remembers it. Changing needs the
    file alone for a moment, and SQLite does not wait for that by itself.
    """
    _until(seconds, lambda: _set_wal(engines.reader))


def _set_wal(engine: Engine) -> None:
    with engine.connect() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _until(seconds: float, action: Callable[[], object]) -> object:
    """Do it as soon as nobody else holds the file; OperationalError where somebody does for all the `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except OperationalError as error:
            busy = getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)


# ----------------------------------------------------------------------------------------------------------- PostgreSQL


def _postgresql_engines(url: URL, settings: StoreSettings) -> Engines:
    common: dict[str, Any] = {"pool_pre_ping": False, "pool_recycle": 1800, "max_overflow": 0}
    writer = create_engine(
        url, pool_size=4, pool_timeout=settings.write_timeout, connect_args=_network(settings.write_timeout), **common
    )
    reader = create_engine(
        url, pool_size=_READERS, pool_timeout=settings.read_timeout, connect_args=_network(settings.read_timeout),
        isolation_level="AUTOCOMMIT", **common,
    )  # fmt: skip
    event.listen(writer, "connect", _session_of(settings.write_timeout))
    event.listen(reader, "connect", _session_of(settings.read_timeout))
    return Engines(writer, reader)


def _network(seconds: float) -> dict[str, Any]:
    """How long to wait for a machine that does not answer; libpq knows no connection time-out below two seconds."""
    return {"connect_timeout": max(2, round(seconds)), "tcp_user_timeout": max(1, round(seconds * 1000))}


def _session_of(seconds: float) -> Callable[[Any, Any], None]:
    """Statements end in time, and a commit waits for the disk whatever the server's default is."""
    milliseconds = max(1, round(seconds * 1000))

    def connected(connection: Any, _record: Any) -> None:
        before = connection.autocommit
        connection.autocommit = True
        connection.execute(f"SET statement_timeout = {milliseconds}")
        connection.execute(f"SET lock_timeout = {milliseconds}")
        connection.execute("SET synchronous_commit = on")
        connection.autocommit = before

    return connected
