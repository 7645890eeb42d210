"""matplotlib's figures as SVG that lives inside a page: in the page's colours, with text as text and ids of its own."""

from __future__ import annotations

import html
import io
import re
import warnings
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK, MUTED, GRID = "#000001", "#000002", "#000003"
SERIES = ("#000004", "#000005", "#000006", "#000007", "#000008")
"""Colours that stand for those of the page, which has others by day than by night."""
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {colour: f"series-{n}" for n, colour in enumerate(SERIES, 1)}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "shelftalk",
    "text.parse_math": False,  # names of columns may hold a $
    "font.family": "sans-serif",
    "font.size": 9.0,
    "figure.constrained_layout.w_pad": 0.1,  # inches: the reader's letters may be wider than matplotlib's
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
}


def styled() -> Any:
    """matplotlib's settings for a plot of the page, as a context manager around all of its drawing."""
    return mpl.rc_context(_STYLE)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element. `name` (letters, digits, `-`) begins its ids and is used once a page;
    `description` is read out instead of it.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text, so it is the reader's font that has to know a sign, not matplotlib's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, description)


def _inline(document: str, name: str, description: str) -> str:
    """One `<svg>` element of the document: no prologue, no metadata, no style of the whole page's, no unused id.

    Labels hold no `<` or `>` of their own in SVG, so that what stops there changes no more than a label's words.
    """
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"<>]*; ", "", svg)
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w.-]+)", svg))
    svg = re.sub(r' id="([^"<>]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    for colour, variable in _NAMES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', r'\1 style="max-width: \2pt"', svg, count=1)
    label = html.escape(description, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
