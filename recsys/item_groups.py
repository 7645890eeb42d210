"""Variants of one product: items whose titles differ in colours and sizes only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

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


def groups_of(titles: Sequence[str], rows: Iterable[int] | None = None) -> npt.NDArray[np.int64]:
    """(n,) the group of each item, at `rows` (None: 0, 1, ...) of the catalogue; an item without a title is a group of
    its own. A group's number is a digest of what its titles share, so that it can be told without the other items.
    """
    places = range(len(titles)) if rows is None else rows
    keys = [group_key(title) or f"\0{row}" for row, title in zip(places, titles, strict=True)]
    return np.array([_digest(key) for key in keys], np.int64)


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)


def _is_variant(before: str, word: str, after: str) -> bool:
    if word in COLOURS or word in SIZES or word in _MARKS or _MEASURE.fullmatch(word):
        return True
    return (
        (before in ("size", "sizes")) or (word.isdigit() and after in _UNITS) or (before.isdigit() and word in _UNITS)
    )
