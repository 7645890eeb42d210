"""Run by Alembic: upgrades over the connection that `recsys.stores.migrate` hands in, inside its transaction."""

from __future__ import annotations

from alembic import context

from recsys.stores.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=True)
context.run_migrations()
