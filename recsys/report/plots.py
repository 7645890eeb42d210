"""The report's plots: dots with whiskers, bars and curves. Each returns an `<svg>` element.

Labels are taken as they are: they come from the data, and may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recsys.report.svg import GRID, INK, MUTED, SERIES, styled, to_svg

_WIDTH = 5.0
"""Inches; 72 SVG points each, so that letters keep their size on a telephone."""
_ROW, _FRAME = 0.24, 0.75
_LONGEST_LABEL = 34


@dataclass(frozen=True)
class Point:
    """A value with its interval, on the line `label`, in the colour of `series`."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    series: str = ""


def whiskers(name: str, points: Sequence[Point], axis: str, *, zero: bool = False) -> str:
    """A dot and its interval a point, one line a label from the top down; series share a line. `zero` draws the line
    of no difference.
    """
    labels, series = _distinct(p.label for p in points), _distinct(p.series for p in points)
    with styled():
        figure, axes = _figure(len(labels) * (1 + 0.35 * (len(series) - 1)))
        for number, one in enumerate(series):
            own = [p for p in points if p.series == one]
            heights = [labels.index(p.label) + 0.5 * ((number + 0.5) / len(series) - 0.5) for p in own]
            _dots(axes, own, heights, SERIES[number % len(SERIES)], one)
        if zero:
            axes.axvline(0, color=MUTED, linewidth=1)
        _lines(axes, labels, axis)
        _legend(axes, series)
        return to_svg(
            figure, name, f"Dots with 95 % intervals: {axis} of {', '.join(labels)}. The table has the figures."
        )


def bars(name: str, labels: Sequence[str], values: Sequence[float], axis: str, groups: Sequence[str] = ()) -> str:
    """One bar a label from the top down; `groups` gives the largest ones a colour each."""
    largest = _distinct(groups)[: len(SERIES)]
    with styled():
        figure, axes = _figure(len(labels))
        colours = [_group_colour(group, largest) for group in groups] or [SERIES[0]] * len(labels)
        axes.barh(range(len(labels)), values, color=colours, height=0.7)
        axes.axvline(0, color=MUTED, linewidth=1)
        _lines(axes, labels, axis)
        for group in largest:
            axes.barh([0], [0], color=_group_colour(group, largest), label=_short(group))
        _legend(axes, largest)
        return to_svg(figure, name, f"Bars: {axis} of {', '.join(labels)}. The table has the figures.")


def curve(name: str, points: Sequence[tuple[float, Point]], axis: str, across: str) -> str:
    """Points with intervals joined by a line over a number."""
    with styled():
        figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
        axes = figure.add_subplot()
        xs, values = [x for x, _ in points], [p.value for _, p in points]
        axes.plot(xs, values, color=SERIES[0], linewidth=1.2)
        for x, point in points:
            axes.plot([x], [point.value], "o", color=SERIES[0], markersize=4)
            if point.low is not None and point.high is not None:
                axes.plot([x, x], [point.low, point.high], color=SERIES[0], linewidth=1.5)
        axes.set_xlabel(across)
        axes.set_ylabel(axis)
        axes.tick_params(axis="y", colors=MUTED)
        return to_svg(figure, name, f"{axis} over {across}, with 95 % intervals. The table has the figures.")


def _figure(num_lines: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, _FRAME + _ROW * max(num_lines, 1)), layout="constrained")
    return figure, figure.add_subplot()


def _dots(axes: Axes, points: Sequence[Point], heights: Sequence[float], colour: str, series: str) -> None:
    axes.plot([p.value for p in points], heights, "o", color=colour, markersize=5, label=_short(series))
    for point, height in zip(points, heights, strict=True):
        if point.low is not None and point.high is not None:
            axes.plot([point.low, point.high], [height, height], color=colour, linewidth=1.8)


def _lines(axes: Axes, labels: Sequence[str], axis: str) -> None:
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(axis)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_color(GRID)


def _legend(axes: Axes, series: Sequence[str]) -> None:
    if len(series) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(series), 3), labelcolor=INK)


def _group_colour(group: str, largest: Sequence[str]) -> str:
    return SERIES[largest.index(group)] if group in largest else MUTED


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
