"""`recsys events ...`: files of events into an event store, and out of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import click

from recsys.command_options import file as _file
from recsys.command_options import settings_options

_STORE = click.option(
    "--store",
    metavar="URL",
    envvar="RECSYS_STORE",
    required=True,
    help="A path, or postgresql://USER:PASSWORD@HOST/NAME. Default: RECSYS_STORE.",
)
_log = logging.getLogger(__name__)


@click.group()
def events() -> None:
    """Move events into a store, or out of it."""


@events.command("import")
@_STORE
@click.argument("path", metavar="FILE", type=_file)
@click.option("--rejected", type=_file, help="Write the rows that can't be used here, as CSV.")
@settings_options
def import_(store: str, path: Path, rejected: Path | None, file: Path | None, assignments: Sequence[str]) -> None:
    """Store the events of FILE: Parquet, CSV or JSON Lines with user_id, item_id, timestamp and more.

    Events that are stored already are counted and left as they are, so that the command can be repeated.
    """
    from recsys.event_files import import_events
    from recsys.settings import load_settings
    from recsys.stores.opening import open_store

    settings = load_settings(file, assignments)
    opened = open_store(store, settings.store)
    try:
        report = import_events(opened, path, settings.data, rejected)
    finally:
        opened.close()
    for reason, count in report.rejected.counts().items():
        _log.info("rejected %d x %s", count, reason)
    click.echo(
        f"{report.accepted} events stored, {report.duplicates} were there already, {report.forgotten} are of forgotten"
        f" users, {len(report.rejected)} rows rejected, in {report.seconds:.1f} s"
    )


@events.command("export")
@_STORE
@click.option("--out", required=True, type=_file, help="A file that ends with .parquet, .csv or .jsonl.")
def export(store: str, out: Path) -> None:
    """Write all events of the store into one file, which can be a data folder's `events`."""
    from recsys.event_files import export_events
    from recsys.stores.opening import open_store

    opened = open_store(store, create=False)
    try:
        click.echo(f"{export_events(opened, out)} events written to {out}")
    finally:
        opened.close()
