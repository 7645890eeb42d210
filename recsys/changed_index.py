"""A search index of a moment ago, and the items that have changed since: what a change costs is what they cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from features.tables import BoolArray, Catalogue
from recsys.lexical import F32, F64, MAX_GUESSES, Ints, LexicalIndex, Rows, bags_of, scores_of

MOST_CHANGED = 256
"""Items beyond which they are made part of the index, in a tenth of a second at 100,000 items."""


@dataclass(frozen=True)
class ChangedIndex:
    """The items at `rows` (k,) int64, ascending, are as `own` says, an index of them alone; `bags` are their words. All
    others are as in `base`. `changed` (num_items,) marks the rows.
    """

    base: LexicalIndex
    rows: Ints
    bags: tuple[Counter[str], ...]
    own: LexicalIndex
    changed: BoolArray

    @classmethod
    def of(cls, base: LexicalIndex) -> ChangedIndex:
        """`base`, of which nothing has changed yet."""
        return cls._made(base, np.empty(0, np.int64), (), base.num_items)

    @classmethod
    def _made(cls, base: LexicalIndex, rows: Ints, bags: tuple[Counter[str], ...], num_items: int) -> ChangedIndex:
        changed = np.zeros(num_items, bool)
        changed[rows] = True
        return cls(base, rows, bags, base.index_beside(bags, num_items), changed)

    def with_rows(self, catalogue: Catalogue, rows: Ints) -> ChangedIndex | LexicalIndex:
        """The index of `catalogue`, whose items at `rows` (ascending) have changed, too, or are new."""
        together = np.union1d(self.rows, rows)
        if len(together) > MOST_CHANGED:
            return self.base.merged(catalogue, together)
        known = dict(zip(self.rows.tolist(), self.bags, strict=True))
        known |= dict(zip(rows.tolist(), bags_of(catalogue, rows), strict=True))
        return self._made(self.base, together, tuple(known[row] for row in together.tolist()), len(catalogue))

    @property
    def num_items(self) -> int:
        """Of the catalogue."""
        return len(self.changed)

    def scores(self, query: str) -> F64:
        """As `LexicalIndex.scores`."""
        return scores_of(self, query)

    def meant(self, word: str) -> list[tuple[str, float]]:
        """As `LexicalIndex.meant`; a word is known where one of the two indexes knows it."""
        if word in self.base.numbers or word in self.own.numbers:
            return [(word, 1.0)]
        guesses = [*self.base.meant(word), *self.own.meant(word)]
        return sorted(guesses, key=lambda guess: -guess[1])[:MAX_GUESSES]

    def postings(self, word: str) -> tuple[Rows, F32]:
        """As `LexicalIndex.postings`."""
        rows, weights = self.base.postings(word)
        kept = ~self.changed[rows]
        own, own_weights = self.own.postings(word)
        return np.concatenate([rows[kept], self.rows[own]]), np.concatenate([weights[kept], own_weights])
