"""The tables as queries see them. They are made by the migrations, which a test compares with this."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, Table, Text, text

METADATA = MetaData()
_HAS_QUERY = text("query IS NOT NULL")
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # INTEGER PRIMARY KEY is SQLite's own row number

EVENTS = Table(
    "events",
    METADATA,
    Column("sequence", _NUMBER, primary_key=True, autoincrement=False),
    Column("event_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("value", Double, nullable=False),
    Column("session_id", Text),
    Column("request_id", Text),
    Column("query", Text),
    Index("events_by_event_id", "event_id", unique=True),
    Index("events_by_user_and_time", "user_id", "time"),
    Index("events_by_time", "time"),
    Index("events_with_query", "sequence", sqlite_where=_HAS_QUERY, postgresql_where=_HAS_QUERY),
)
FORGOTTEN = Table(
    "forgotten_users",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("sequence", _NUMBER, nullable=False),
    Column("forgotten_at", Double, nullable=False),
    Index("forgotten_users_by_sequence", "sequence"),
)
ITEMS = Table(
    "items",
    METADATA,
    Column("item_id", Text, primary_key=True),
    Column("sequence", _NUMBER, nullable=False),
    Column("document", Text, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Index("items_by_sequence", "sequence"),
)
COUNTER = Table(
    "counter", METADATA, Column("id", Integer, primary_key=True), Column("value", BigInteger, nullable=False)
)
"""One row, the number of the newest write. Whoever writes holds it until the commit (see ADR 6)."""
