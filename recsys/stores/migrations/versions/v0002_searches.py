"""Events that carry a query can be found without looking through all others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """An index over those events alone."""
    has_query = sa.text("query IS NOT NULL")
    op.create_index("events_with_query", "events", ["sequence"], sqlite_where=has_query, postgresql_where=has_query)


def downgrade() -> None:
    """Remove it."""
    op.drop_index("events_with_query", "events")
