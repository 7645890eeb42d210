"""Which store a service or a job uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recsys.stores.settings import StoreSettings

if TYPE_CHECKING:
    from recsys.stores.sql import SqlEventStore

NO_STORE = "none"
"""What an operator writes for a service without a store."""
DEFAULT_FILE = "store.sqlite"


def url_or_default(url: str | None, bundle: Path) -> str | None:
    """`url`, or a SQLite file in the folder of the bundles, whose versions come and go beside it; None for "none"."""
    if url is None or not url.strip():
        return str(bundle / DEFAULT_FILE)
    return None if url.strip().lower() == NO_STORE else url.strip()


def open_store(url: str, settings: StoreSettings | None = None) -> SqlEventStore:
    """See `SqlEventStore.open`. SQLAlchemy is imported here, by those who have a store."""
    from recsys.stores.sql import SqlEventStore

    return SqlEventStore.open(url, settings)
