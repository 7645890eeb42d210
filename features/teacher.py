"""What other models of behaviour can teach the text encoder: the contract."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class Teacher(Protocol):
    """Models of behaviour, fitted on the events of the users given and of no others: the rest judge."""

    def neighbours(self, user_rows: I64, n: int) -> I64:
        """(n_items, n) item rows: what goes best with each item, the best first; -1 where there is no more."""
        ...

    def item_vectors(self, user_rows: I64) -> F32:
        """(n_items, d) float32: items that the same users like have like vectors; zero rows for items of no user."""
        ...
