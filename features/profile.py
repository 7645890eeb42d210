"""Profile: what is in a Dataset, in numbers and as tables for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from features import tables
from features.csv_lines import ROW_KEPT
from features.tables import Catalogue, Dataset, Events

_TEXT_COLUMNS = (tables.TITLE, tables.DESCRIPTION, tables.CATEGORY, tables.BRAND)
_NUMBER_COLUMNS = (tables.PRICE, tables.PUBLISHED_AT)
_WIDTH = 100


def profile(dataset: Dataset) -> dict[str, Any]:
    """What is in the data, as values that JSON can hold (None where there is nothing to measure).

    `density` is the share of user-item pairs with an event; `repeat_rate` the share of events on an item that the same
    user had before; `duplicate_events` counts rows that say the same as an earlier one; `cold_items` have no event;
    a moment is all events of one user with one timestamp. Shares are fractions of 1, lengths are words.
    """
    events, num_items, num_users = dataset.events, len(dataset.catalogue), len(dataset.users)
    pairs = len(np.unique(events.user_rows.astype(np.int64) * max(num_items, 1) + events.item_rows))
    by_item = np.bincount(events.item_rows, minlength=num_items)
    return {
        "fingerprint": dataset.fingerprint,
        "users": num_users,
        "items": num_items,
        "events": len(events),
        "events_by_type": _by_type(events),
        "clock": events.clock,
        "time_range": _time_range(events),
        "pairs": pairs,
        "density": _share(pairs, num_users * num_items),
        "repeat_rate": _share(len(events) - pairs, len(events)),
        "duplicate_events": _duplicates(events),
        "cold_items": int(np.sum(by_item == 0)),
        "available_items": int(np.sum(dataset.catalogue.frame[tables.AVAILABLE].to_numpy())),
        "events_per_user": _quantiles(np.bincount(events.user_rows, minlength=num_users)),
        "moments_per_user": _quantiles(_moments(events, num_users)),
        "events_per_item": _quantiles(by_item),
        "columns": _columns(dataset.catalogue),
        "rejected": {k: n for k, n in dataset.rejected.counts().items() if not k.endswith(ROW_KEPT)},
        "mended": {k: n for k, n in dataset.rejected.counts().items() if k.endswith(ROW_KEPT)},
    }


def render(values: Mapping[str, Any]) -> str:
    """What `profile` returned, as plain-text tables of at most 100 columns."""
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(_pairs_table("Data", _facts(values)))
        console.print(_pairs_table("Events by type", [(k, f"{n:,}") for k, n in values["events_by_type"].items()]))
        console.print(_quantile_table(values))
        console.print(_column_table(values["columns"]))
        for title, key in (("Rejected rows", "rejected"), ("Mended cells, the rows are used", "mended")):
            if values[key]:
                console.print(_pairs_table(title, [(k, f"{n:,}") for k, n in values[key].items()]))
    return capture.get()


def _by_type(events: Events) -> dict[str, int]:
    """Commonest first."""
    counts = np.bincount(events.kinds, minlength=len(events.kind_names)).tolist()
    return dict(sorted(zip(events.kind_names, counts, strict=True), key=lambda pair: (-pair[1], pair[0])))


def _time_range(events: Events) -> dict[str, str] | None:
    if not (len(events) and events.has_clock):
        return None
    return {"first": _iso(float(events.times.min())), "last": _iso(float(events.times.max()))}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _duplicates(events: Events) -> int:
    columns = (events.user_rows, events.item_rows, events.kinds, events.times, events.values)  # noqa: PD011
    frame = pd.DataFrame(dict(enumerate(columns)))
    return int(pd.concat([frame, events.extra], axis=1).duplicated().sum())


def _moments(events: Events, num_users: int) -> npt.NDArray[np.int64]:
    """Distinct times of each user, (num_users,) int64."""
    order = np.lexsort((events.times, events.user_rows))
    users, times = events.user_rows[order], events.times[order]
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(users) != 0) | (np.diff(times) != 0)
    return np.bincount(users[new], minlength=num_users)


def _quantiles(counts: npt.NDArray[np.integer]) -> dict[str, float] | None:
    if not len(counts):
        return None
    low, median, high, top = np.quantile(counts, [0.0, 0.5, 0.95, 1.0]).tolist()
    return {"min": low, "median": median, "mean": float(counts.mean()), "p95": high, "max": top}


def _columns(catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    """For each column that a person fills: the share of items that have it; for texts the words where there are any."""
    out: dict[str, dict[str, Any]] = {}
    for name in (*_TEXT_COLUMNS, *_NUMBER_COLUMNS, *catalogue.attributes):
        column = catalogue.frame[name]
        filled = column.notna() & column.map(lambda value: value not in ("", ()))
        out[name] = {"coverage": float(filled.mean()) if len(filled) else 0.0}
        if name in _TEXT_COLUMNS:
            out[name] |= _word_lengths(column[filled].tolist())
    return out


def _word_lengths(values: Iterable[str | tuple[str, ...]]) -> dict[str, float | None]:
    lengths = [len((" ".join(v) if isinstance(v, tuple) else v).split()) for v in values]
    if not lengths:
        return {"median_words": None, "p95_words": None}
    median, high = np.quantile(lengths, [0.5, 0.95]).tolist()
    return {"median_words": median, "p95_words": high}


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    span = values["time_range"]
    when = f"{span['first']} .. {span['last']}" if span else "each user's own order (no timestamps)"
    if span is None and values["clock"] == "timestamp":
        when = "no events"
    return [
        ("users", f"{values['users']:,}"),
        ("items", f"{values['items']:,} ({values['cold_items']:,} without events)"),
        ("available items", f"{values['available_items']:,}"),
        ("events", f"{values['events']:,}"),
        ("time", when),
        ("user-item pairs", f"{values['pairs']:,} (density {_percent(values['density'])})"),
        ("repeat rate", _percent(values["repeat_rate"])),
        ("duplicate events", f"{values['duplicate_events']:,}"),
        ("rejected rows", f"{sum(values['rejected'].values()):,}"),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _printable(name: str) -> Text:
    """A name from the data: neither rich's markup nor a terminal's control characters may act in it."""
    return Text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in name))


def _pairs_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(_printable(name), Text(value))
    return table


def _quantile_table(values: Mapping[str, Any]) -> Table:
    statistics = ("min", "median", "mean", "p95", "max")
    table = Table("per", *statistics, title="Counts", title_justify="left")
    for key in ("events_per_user", "moments_per_user", "events_per_item"):
        found = values[key] or dict.fromkeys(statistics)
        table.add_row(key.replace("_", " "), *(_number(found[s]) for s in statistics))
    return table


def _column_table(columns: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("column", "items that have it", "words (median)", "words (p95)", title="Items", title_justify="left")
    for name, found in columns.items():
        words = (_number(found.get("median_words")), _number(found.get("p95_words")))
        table.add_row(_printable(name), _percent(found["coverage"]), *words)
    return table
