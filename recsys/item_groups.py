"""Variants of one product: items whose titles differ in colours and sizes only."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recsys.words import plain

_COLOURS = (
    "amber aqua beige black blue bronze brown burgundy charcoal coral cream cyan gold golden gray green grey indigo",
    "ivory khaki lavender lilac lime magenta maroon mint mustard navy ochre olive orange peach pink plum purple red",
    "rose ruby salmon silver tan taupe teal turquoise violet white yellow multicolour multicolor",
)
COLOURS = frozenset(word for line in _COLOURS for word in line.split())
SIZES = frozenset(["xxs", "xs", "s", "m", "l", "xl", "xxl", "xxxl", "2xl", "3xl", "4xl", "small", "medium", "large"])
_WORD = re.compile(r"[\w.]+")
_MEASURE = re.compile(r"\d+(?:\.\d+)?(?:ml|cl|l|g|kg|oz|lb|cm|mm|m|in|inch|ft|pcs|pack)")
_UNITS = frozenset(["ml", "cl", "l", "g", "kg", "oz", "lb", "cm", "mm", "m", "in", "inch", "ft", "pcs", "pack"])
_MARKS = frozenset({"size", "colour", "color"})


def group_key(title: str) -> str:
    """The title without case, accents, punctuation, colours and sizes; all of it where nothing else is left. Numbers
    without a unit stay: the second volume is no variant of the first.
    """
    words = _WORD.findall(plain(title))
    kept = [
        word
        for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False)
        if not _is_variant(before, word, after)
    ]
    return " ".join(kept or words)


def groups_of(titles: Sequence[str]) -> npt.NDArray[np.int64]:
    """(n_items,) the group of each item; an item without a title is a group of its own."""
    numbers: dict[str, int] = {}
    keys = [group_key(title) or f"\0{row}" for row, title in enumerate(titles)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _is_variant(before: str, word: str, after: str) -> bool:
    if word in COLOURS or word in SIZES or word in _MARKS or _MEASURE.fullmatch(word):
        return True
    return (
        (before in ("size", "sizes")) or (word.isdigit() and after in _UNITS) or (before.isdigit() and word in _UNITS)
    )
