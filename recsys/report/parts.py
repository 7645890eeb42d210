"""What the page is made of: sections with leads, plots and tables, and how figures are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MISSING = "–"
"""What stands for a figure that is not defined."""
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """`rows` begin with their heading; the other cells are numbers, or words where `is_text`."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_text: bool = False


@dataclass(frozen=True)
class Section:
    """`anchor` names it in links; `lead` has one paragraph an entry; `plots` are `<svg>` elements; `examples` are those
    of `recsys.example_lists`, by kind.
    """

    anchor: str
    title: str
    lead: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    examples: Mapping[str, Sequence[Figures]] | None = None


def number(value: float | None, digits: int = 4) -> str:
    """With a fixed number of decimals."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
    """With its sign."""
    return MISSING if value is None else f"{value:+,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return MISSING if value is None else f"{100 * value:,.{digits}f} %"


def count(value: int | None) -> str:
    """A whole number with thousands parted."""
    return MISSING if value is None else f"{value:,}"


def interval(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """The limits of an interval."""
    write = signed if sign else number
    return MISSING if low is None or high is None else f"{write(low)} to {write(high)}"


def moment(seconds: float | None) -> str:
    """Unix seconds as a UTC date and time."""
    return MISSING if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def plain_value(value: Any) -> str:
    """A setting or a fact of whatever type, briefly."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain_value(own)}" for key, own in value.items()) or MISSING
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain_value, value)) or MISSING
    return str(value) or MISSING


def fact_table(caption: str, facts: Mapping[str, Any]) -> Table:
    """One row a fact, in words."""
    rows = tuple((name.replace("_", " "), plain_value(value)) for name, value in facts.items())
    return Table(caption, ("what", "value"), rows, is_text=True)
