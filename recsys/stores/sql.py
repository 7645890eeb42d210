"""The event store on SQLite or PostgreSQL."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    BindParameter,
    Connection,
    Executable,
    bindparam,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql.expression import union_all

from recsys.errors import SettingsError, StoreError
from recsys.stores.base import Changes, Event, Forgotten, StoredEvents, StoredItem, Verdict, identified
from recsys.stores.engines import SQLITE, Engines, enable_wal, make_engines, store_url
from recsys.stores.migrate import upgrade, version_of
from recsys.stores.schema import COUNTER, EVENTS, FORGOTTEN, ITEMS
from recsys.stores.settings import StoreSettings

_LOOKED_UP = 5000
"""Ids in one query: databases limit the parameters of a statement."""
_MIGRATION_LOCK = 0x5E1F7A1C
"""PostgreSQL's advisory lock for whoever makes the tables: there is no row yet that could be locked."""
_DAY = 86_400.0

_user: BindParameter[Any] = bindparam("user")
_before: BindParameter[Any] = bindparam("before")
_up_to: BindParameter[Any] = bindparam("up_to")
_limit: BindParameter[Any] = bindparam("limit")
_newest = (
    select(EVENTS.c.item_id, EVENTS.c.event, EVENTS.c.time)
    .where(EVENTS.c.user_id == _user, EVENTS.c.time < _before, EVENTS.c.sequence <= _up_to)
    .order_by(EVENTS.c.time.desc(), EVENTS.c.sequence.desc())
    .limit(_limit)
    .subquery()
)
_HISTORY = union_all(
    select(_newest.c.item_id, _newest.c.event, _newest.c.time),
    select(null(), literal(""), FORGOTTEN.c.forgotten_at).where(FORGOTTEN.c.user_id == _user),
)
"""One statement: the user's events, newest first, and a row without an item where the user was forgotten."""
_EVENT_COLUMNS = (
    EVENTS.c.user_id, EVENTS.c.item_id, EVENTS.c.time, EVENTS.c.event, EVENTS.c.value, EVENTS.c.event_id,
    EVENTS.c.session_id, EVENTS.c.request_id, EVENTS.c.query,
)  # fmt: skip
_CHANGED = (
    select(EVENTS.c.sequence, *_EVENT_COLUMNS)
    .where(EVENTS.c.sequence > bindparam("after"), EVENTS.c.sequence <= _up_to)
    .order_by(EVENTS.c.sequence)
    .limit(_limit)
)
_FORGOTTEN = (
    select(FORGOTTEN.c.sequence, FORGOTTEN.c.user_id, FORGOTTEN.c.forgotten_at)
    .where(FORGOTTEN.c.sequence > bindparam("after"), FORGOTTEN.c.sequence <= _up_to)
    .order_by(FORGOTTEN.c.sequence)
)
_HEAD = select(COUNTER.c.value).where(COUNTER.c.id == 1)
_HELD_HEAD = _HEAD.with_for_update()
_NEVER = float("inf")
_ALL = 2**62


class SqlEventStore:
    """See `EventStore`. Nothing is connected or made before the first use, so that a service can start while its
    database is away; `open` and `prepare` find out at once.

    A write begins by taking the counter's row (SQLite: the database's write lock) and keeps it until its commit. So
    the numbers are given in the order of the commits, on PostgreSQL too, whose own sequences would let number 8 be
    seen before number 7.
    """

    def __init__(self, url: str, settings: StoreSettings | None = None) -> None:
        self._url = store_url(url)
        self.settings = settings or StoreSettings()
        self._made: tuple[int, Engines] | None = None
        self._making = threading.Lock()
        self._has_tables = False

    @classmethod
    def open(cls, url: str, settings: StoreSettings | None = None, *, create: bool = True) -> Self:
        """The store at `url`, made where there is none and `create` is true. SettingsError for what is no URL of a
        store, or of none that may be opened; StoreError where it can't be reached or made.
        """
        store = cls(url, settings)
        try:
            if not create:
                store._check_exists()
            store.prepare()
        except BaseException:
            store.close()
            raise
        return store

    def prepare(self) -> None:
        """Make the tables, or bring them to this version's schema."""
        if self._has_tables:
            return
        with self._failures():
            if self._is_sqlite:
                enable_wal(self._engines, self.settings.write_timeout)
            with self._engines.writer.begin() as connection:
                if not self._is_sqlite:
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
                upgrade(connection)
        self._has_tables = True

    def _check_exists(self) -> None:
        """SettingsError where nobody has made a store yet."""
        if self._is_sqlite and not Path(self._url.database or "").is_file():
            raise self._absent("there is no such file")
        with self._failures(), self._engines.reader.connect() as connection:
            if version_of(connection) is None:
                raise self._absent("the database has no store in it")

    def _absent(self, why: str) -> SettingsError:
        return SettingsError(
            f"store {self.name}: {why}; correct --store (or RECSYS_STORE). `recsys serve` and `recsys events import`"
            " make a store; where nothing is stored yet, train and batch take --store none"
        )

    @property
    def name(self) -> str:
        """The URL, without its password."""
        return self._url.set(drivername=self._url.get_backend_name()).render_as_string(hide_password=True)

    # ---------------------------------------------------------------------------------------------------------- events

    def append(self, events: Sequence[Event]) -> list[Verdict]:
        """See `EventStore`: one transaction, one commit."""
        if not events:
            return []
        named = [identified(event) for event in events]
        with self._writing() as connection:
            head = _held_head(connection)
            stored = _found(connection, EVENTS.c.event_id, [event.event_id for event in named])
            forgotten = _forgotten_times(connection, {event.user_id for event in named})
            verdicts, rows = _judged(named, {row.event_id for row in stored}, forgotten, head)
            if rows:
                connection.execute(insert(EVENTS), rows)
                _advance(connection, head + len(rows))
        return verdicts

    def history(self, user_id: str, before: float | None = None, up_to: int | None = None) -> StoredEvents:
        """See `EventStore`: one statement over one index."""
        values = {
            "user": user_id,
            "before": _NEVER if before is None else before,
            "up_to": _ALL if up_to is None else up_to,
            "limit": self.settings.max_history,
        }
        rows = self._read(_HISTORY, values)
        items: list[Any] = []
        kinds: list[str] = []
        times: list[float] = []
        forgotten_at = None
        for item_id, kind, time in sorted(rows, key=lambda row: float(row[2])):  # a union promises no order
            if item_id is None:
                forgotten_at = time
            else:
                items.append(item_id)
                kinds.append(kind)
                times.append(time)
        return StoredEvents(tuple(items), tuple(kinds), tuple(times), forgotten_at)

    def changes(self, after: int, limit: int = 10_000, up_to: int | None = None) -> Changes:
        """See `EventStore`. What the counter says is committed, so that everything up to it can be seen by now."""
        up_to = self.head() if up_to is None else min(up_to, self.head())
        if up_to <= after:
            return Changes(after, (), ())
        rows = self._read(_CHANGED, {"after": after, "up_to": up_to, "limit": limit})
        if len(rows) == limit:
            up_to = rows[-1][0]
        events = tuple((row[0], Event(*row[1:])) for row in rows)
        return Changes(up_to, events, tuple(self._forgotten_between(after, up_to)))

    def forgotten(self, after: int = 0) -> list[Forgotten]:
        """See `EventStore`."""
        return self._forgotten_between(after, _ALL)

    def _forgotten_between(self, after: int, up_to: int) -> list[Forgotten]:
        return [Forgotten(*row) for row in self._read(_FORGOTTEN, {"after": after, "up_to": up_to})]

    def head(self) -> int:
        """See `EventStore`."""
        return int(self._read(_HEAD, {})[0][0])

    def live_start(self, since: float, max_events: int, up_to: int | None = None) -> int:
        """See `EventStore`. The head is read first: what is written between the reads comes after the start."""
        head = self.head() if up_to is None else min(up_to, self.head())
        wanted = [EVENTS.c.time >= since, *([] if up_to is None else [EVENTS.c.sequence <= up_to])]
        newest = select(EVENTS.c.sequence).where(*wanted).order_by(EVENTS.c.sequence.desc())
        rows = self._read(newest.limit(1).offset(max_events), {})
        if rows:
            return int(rows[0][0])
        first = self._read(select(func.min(EVENTS.c.sequence)).where(*wanted), {})[0][0]
        return head if first is None else int(first) - 1

    def searched(self, since: float, max_events: int, up_to: int) -> list[Event]:
        """See `EventStore`. The index of the events with a query is read from its end."""
        wanted = (EVENTS.c.query.is_not(None), EVENTS.c.sequence <= up_to, EVENTS.c.time >= since)
        query = select(*_EVENT_COLUMNS).where(*wanted).order_by(EVENTS.c.sequence.desc()).limit(max_events)
        return [Event(*row) for row in reversed(self._read(query, {}))]

    def newest_time(self) -> float | None:
        """See `EventStore`."""
        found: float | None = self._read(select(func.max(EVENTS.c.time)), {})[0][0]
        return found

    def forget(self, user_id: str, at: float) -> int:
        """See `EventStore`. A later call moves the time on, never back."""
        with self._writing() as connection:
            head = _held_head(connection)
            removed = connection.execute(delete(EVENTS).where(EVENTS.c.user_id == user_id)).rowcount
            before = _forgotten_times(connection, {user_id}).get(user_id, at)
            row = {"user_id": user_id, "sequence": head + 1, "forgotten_at": max(at, before)}
            self._upsert(connection, FORGOTTEN, "user_id", [row])
            _advance(connection, head + 1)
        return int(removed)

    # ----------------------------------------------------------------------------------------------------------- items

    def put_items(self, documents: Mapping[str, Mapping[str, Any]]) -> int:
        """See `EventStore`."""
        texts = {item_id: json.dumps(dict(document), allow_nan=False) for item_id, document in documents.items()}
        return self._write_items(texts, deleted=False)

    def delete_item(self, item_id: str) -> int:
        """See `EventStore`."""
        return self._write_items({item_id: "{}"}, deleted=True)

    def items_since(self, after: int, limit: int = 10_000) -> list[StoredItem]:
        """See `EventStore`."""
        query = select(ITEMS).where(ITEMS.c.sequence > after).order_by(ITEMS.c.sequence).limit(limit)
        return [
            StoredItem(row.sequence, row.item_id, None if row.deleted else json.loads(row.document))
            for row in self._read(query, {})
        ]

    def _write_items(self, texts: Mapping[str, str], *, deleted: bool) -> int:
        with self._writing() as connection:
            head = _held_head(connection)
            rows = [
                {"item_id": item_id, "sequence": number, "document": document, "deleted": deleted}
                for number, (item_id, document) in enumerate(texts.items(), start=head + 1)
            ]
            if rows:
                self._upsert(connection, ITEMS, "item_id", rows)
                _advance(connection, head + len(rows))
        return head + len(rows)

    # ------------------------------------------------------------------------------------------------------- retention

    def prune(self, now: float, max_rows: int = 10_000) -> int:
        """See `EventStore`. Few rows at a time, so that events that arrive need not wait long."""
        wanted = []
        if self.settings.retention_days is not None:
            oldest = now - self.settings.retention_days * _DAY
            wanted.append(select(EVENTS.c.sequence).where(EVENTS.c.time < oldest).order_by(EVENTS.c.time))
        if self.settings.max_events is not None and (surplus := self._surplus(self.settings.max_events)) is not None:
            wanted.append(select(EVENTS.c.sequence).where(EVENTS.c.sequence <= surplus).order_by(EVENTS.c.sequence))
        for query in wanted:
            with self._writing() as connection:
                chosen = query.limit(max_rows)
                removed = connection.execute(delete(EVENTS).where(EVENTS.c.sequence.in_(chosen))).rowcount
            if removed:
                return int(removed)
        return 0

    def _surplus(self, max_events: int) -> int | None:
        """The number of the newest event that is one too many."""
        query = select(EVENTS.c.sequence).order_by(EVENTS.c.sequence.desc()).limit(1)
        first, last = self._read(select(func.min(EVENTS.c.sequence), func.max(EVENTS.c.sequence)), {})[0]
        if first is None or last - first < max_events:
            return None  # numbers are distinct: there can't be more events than numbers
        found = self._read(query.offset(max_events), {})
        return int(found[0][0]) if found else None

    # ----------------------------------------------------------------------------------------------------- connections

    def close(self) -> None:
        """See `EventStore`."""
        with self._making:
            if self._made is not None and self._made[0] == os.getpid():
                self._made[1].dispose(close=True)
            self._made = None

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == SQLITE

    @property
    def _engines(self) -> Engines:
        """This process's own: connections that a forked child shared with its parent would mix their answers up."""
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._making:
                made = self._made
                if made is None or made[0] != os.getpid():
                    if made is not None:
                        made[1].dispose(close=False)
                    made = self._made = (os.getpid(), make_engines(self._url, self.settings))
        return made[1]

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        self.prepare()
        with self._failures(), self._engines.writer.begin() as connection:
            yield connection

    def _read(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Any]:
        self.prepare()
        with self._failures(), self._engines.reader.connect() as connection:
            return connection.execute(statement, values).all()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            said = str(cause).strip().splitlines()
            raise StoreError(
                f"the store {self.name} can't be used: {said[0] if said else type(cause).__name__}"
            ) from error

    def _upsert(self, connection: Connection, table: Any, key: str, rows: list[dict[str, Any]]) -> None:
        made: Any = (sqlite if self._is_sqlite else postgresql).insert(table)
        changed = {name: made.excluded[name] for name in rows[0] if name != key}
        connection.execute(made.on_conflict_do_update(index_elements=[key], set_=changed), rows)


def _held_head(connection: Connection) -> int:
    """The number of the newest write, which nobody can change before this transaction has ended."""
    return int(connection.execute(_HELD_HEAD).scalar_one())


def _advance(connection: Connection, value: int) -> None:
    connection.execute(update(COUNTER).where(COUNTER.c.id == 1).values(value=value))


def _found(connection: Connection, column: Any, ids: Sequence[str]) -> list[Any]:
    """The rows of the column's table, reduced to that column, that hold one of the `ids`."""
    found: list[Any] = []
    for start in range(0, len(ids), _LOOKED_UP):
        found += connection.execute(select(column).where(column.in_(ids[start : start + _LOOKED_UP])))
    return found


def _forgotten_times(connection: Connection, users: set[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    ids = sorted(users)
    for start in range(0, len(ids), _LOOKED_UP):
        query = select(FORGOTTEN.c.user_id, FORGOTTEN.c.forgotten_at)
        rows = connection.execute(query.where(FORGOTTEN.c.user_id.in_(ids[start : start + _LOOKED_UP])))
        found |= {row.user_id: row.forgotten_at for row in rows}
    return found


def _judged(
    events: Sequence[Event], stored: set[str], forgotten: Mapping[str, float], head: int
) -> tuple[list[Verdict], list[dict[str, Any]]]:
    """One verdict an event, and the rows to insert, numbered from `head` on."""
    verdicts: list[Verdict] = []
    rows: list[dict[str, Any]] = []
    for event in events:
        if event.event_id in stored:
            verdicts.append("duplicate")
        elif event.time < forgotten.get(event.user_id, -_NEVER):
            verdicts.append("forgotten")
        else:
            stored.add(event.event_id)
            verdicts.append("accepted")
            rows.append(_row(event, head + len(rows) + 1))
    return verdicts, rows


def _row(event: Event, number: int) -> dict[str, Any]:
    return {
        "sequence": number, "event_id": event.event_id, "user_id": event.user_id, "item_id": event.item_id,
        "event": event.event, "time": event.time, "value": event.value, "session_id": event.session_id,
        "request_id": event.request_id, "query": event.query,
    }  # fmt: skip
