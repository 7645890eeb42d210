"""What the answers over one catalogue leave to those over the next, in which a few items are others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.tables import Catalogue
from recsys.attributes import Attributes
from recsys.changed_index import ChangedIndex
from recsys.lexical import LexicalIndex

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Carried:
    """What was made of the catalogue before the items `changed` (ids) became others, each None where it was not made:
    the columns of filters, the groups of variants (n_items before,) and the index of search.
    """

    attributes: Attributes | None = None
    groups: Ints | None = None
    index: LexicalIndex | ChangedIndex | None = None
    changed: frozenset[str] = frozenset()

    def rows(self, catalogue: Catalogue) -> Ints:
        """Where the changed items are, ascending."""
        rows = catalogue.items.rows(sorted(self.changed))
        return np.sort(rows[rows >= 0])


NOTHING_CARRIED = Carried()
