"""The options that several commands share, and reading the data folder that one of them names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from recsys.bundle_commands import FOLDER

if TYPE_CHECKING:
    from features.tables import Dataset
    from recsys.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])
_log = logging.getLogger(__name__)

file = click.Path(dir_okay=False, path_type=Path)
data = click.option("--data", type=FOLDER, required=True, help="Folder with the tables items and events.")
events = click.option("--events", metavar="LIST", help="Comma list: only these event types count.")

store = click.option(
    "--store",
    metavar="URL",
    envvar="RECSYS_STORE",
    help='Event store: a path or postgresql://USER:PASSWORD@HOST/NAME; "none" for none. Default: RECSYS_STORE.',
)


def settings_options(command: _Command) -> _Command:
    """`--settings FILE` and `--set KEY=VALUE`."""
    command = click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="One setting; repeatable.")(
        command
    )
    return click.option("--settings", "file", type=file, help="TOML file of settings.")(command)


def read_data(folder: Path, settings: Settings, only_events: str | None) -> Dataset:
    """The data set of a folder, of the named event types where some are named; logs its size and what was rejected."""
    from features.tables import Dataset

    dataset = Dataset.load(folder, settings.data, events=event_names(only_events))
    _log.info(
        "%s: %d items, %d events of %d users, %d rows rejected",
        folder, len(dataset.catalogue), len(dataset.events), len(dataset.users), len(dataset.rejected),
    )  # fmt: skip
    for reason, count in dataset.rejected.counts().items():
        _log.info("rejected %d x %s", count, reason)
    return dataset


def event_names(text: str | None) -> list[str] | None:
    """The names in the comma list of `--events`; None where it was not given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--events names no event type")
    return names
