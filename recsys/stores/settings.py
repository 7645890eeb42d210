"""What an operator may set of the store."""

from __future__ import annotations

import math

from pydantic import Field

from features.settings import Settings


class StoreSettings(Settings):
    """How much is kept, and how long anybody waits. A running service reads these from RECSYS_STORE__* variables."""

    retention_days: float | None = Field(default=None, gt=0)
    """Events that happened longer ago are removed, and no longer taken; None keeps them."""
    max_events: int | None = Field(default=10_000_000, ge=1)
    """Beyond so many the events stored first are removed: some 2 GB of SQLite. None: no limit."""
    max_history: int = Field(default=10_000, ge=1)
    """Newest events of one user that a request looks at, so that a robot's history can't slow anybody down."""
    max_rows: int = Field(default=1000, ge=1)
    """Events that one `POST /events` may hold."""
    read_timeout: float = Field(default=0.25, gt=0)
    """Seconds that a list waits for its history before it is made without what the store holds."""
    write_timeout: float = Field(default=5.0, gt=0)
    """Seconds that an event waits to be written before the caller is told to send it again."""
    retry_after: float = Field(default=1.0, ge=0)
    """Seconds for which lists are made without the store after it has failed, before one of them asks it again."""
    poll_seconds: float = Field(default=0.25, gt=0)
    """How often each worker looks for what others have written."""
    live_hours: float = Field(default=24.0, gt=0)
    """Hours in which guests' lists look for what is taken now; lists with a history look back to the training."""
    live_events: int = Field(default=100_000, ge=1)
    """Newest events that live counters hold in memory, some 60 MB for the default."""
    query_days: float = Field(default=30.0, gt=0)
    """Days that search looks back for what users took after a query."""
    query_events: int = Field(default=30_000, ge=1)
    """Newest events with a query that search holds in memory, some 30 MB for the default."""
    live_prior: float = Field(default=500.0, gt=0)
    """So many live events weigh as much as everything that the bundle knows of what is popular."""
    live_ranking: bool = True
    """Whether what happened since the training counts in the lists of those who have a history."""

    @property
    def kept_days(self) -> float:
        """`retention_days`, infinite where everything is kept."""
        return math.inf if self.retention_days is None else self.retention_days
