"""Bring a database to the schema of this version; any number of processes may do so at once."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from recsys.errors import StoreError

HEAD = "0002"
"""The newest version of the schema. It is written here so that a start need not import Alembic to see that it is so."""
_FOLDER = Path(__file__).with_name("migrations")


def upgrade(connection: Connection) -> None:
    """Make or change the tables, inside the caller's transaction, which is to exclude other writers; StoreError where
    a newer version of the product has been here.
    """
    found = version_of(connection)
    if found == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            f"the store has the schema version {found!r}, which this version of Shelftalk does not know ({error});"
            " use the version that made it, or a newer one"
        ) from None


def version_of(connection: Connection) -> str | None:
    """The schema's version; None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
