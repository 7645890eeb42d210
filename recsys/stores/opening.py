"""Which store a service or a job uses."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.errors import StoreError
from recsys.stores.settings import StoreSettings

if TYPE_CHECKING:
    from recsys.stores.sql import SqlEventStore

NO_STORE = "none"
"""What an operator writes for a service without a store."""
DEFAULT_FILE = "store.sqlite"
_logger = logging.getLogger(__name__)


def url_or_default(url: str | None, bundle: Path | None) -> str | None:
    """`url`, or a SQLite file in the folder of the bundles, whose versions come and go beside it; None for "none", and
    where there is no such folder.
    """
    if url is None or not url.strip():
        return str(bundle / DEFAULT_FILE) if bundle is not None and bundle.is_dir() else None
    return None if url.strip().lower() == NO_STORE else url.strip()


def given_url(url: str | None) -> str | None:
    """The store that a job was told to use; None where it was told none."""
    return None if url is None or url.strip().lower() in ("", NO_STORE) else url.strip()


def check_store(url: str) -> None:
    """SettingsError where `url` is no URL of a store; nothing is connected."""
    from recsys.stores.engines import store_url

    given = given_url(url)
    if given is not None:
        store_url(given)


def open_store(url: str, settings: StoreSettings | None = None, *, create: bool = True) -> SqlEventStore:
    """See `SqlEventStore.open`; who only reads does not `create`, so that a mistyped URL is told and leaves no empty
    store. SQLAlchemy is imported here, by those who have a store.
    """
    from recsys.stores.sql import SqlEventStore

    return SqlEventStore.open(url, settings, create=create)


def open_later(url: str, settings: StoreSettings) -> SqlEventStore:
    """A store that a service may use; where it can't be reached now that is logged, and tried again at every use."""
    from recsys.stores.sql import SqlEventStore

    store = SqlEventStore(url, settings)
    try:
        store.prepare()
    except StoreError as error:
        _logger.warning("starting without the event store, answering 503 where it is needed: %s", error)
    else:
        _logger.info("events are stored in %s", store.name)
    return store
