"""The first schema: events, forgotten users, items, and the counter that numbers their writes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make everything."""
    op.create_table(
        "events",
        sa.Column("sequence", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("query", sa.Text),
    )
    op.create_index("events_by_event_id", "events", ["event_id"], unique=True)
    op.create_index("events_by_user_and_time", "events", ["user_id", "time"])
    op.create_index("events_by_time", "events", ["time"])
    op.create_table(
        "forgotten_users",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("sequence", _NUMBER, nullable=False),
        sa.Column("forgotten_at", sa.Double, nullable=False),
    )
    op.create_index("forgotten_users_by_sequence", "forgotten_users", ["sequence"])
    op.create_table(
        "items",
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("sequence", _NUMBER, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
    )
    op.create_index("items_by_sequence", "items", ["sequence"])
    counter = op.create_table(
        "counter", sa.Column("id", sa.Integer, primary_key=True), sa.Column("value", sa.BigInteger, nullable=False)
    )
    op.bulk_insert(counter, [{"id": 1, "value": 0}])


def downgrade() -> None:
    """Remove everything."""
    for table in ("counter", "items", "forgotten_users", "events"):
        op.drop_table(table)
