"""Free text over the catalogue: words first, meaning too where a text encoder is at hand, and who asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from threading import Lock

import numpy as np
import numpy.typing as npt

from features.grid import on_grid
from features.tables import BoolArray
from recsys.carried import NOTHING_CARRIED, Carried
from recsys.changed_index import ChangedIndex
from recsys.errors import RequestError
from recsys.fusion import Fused, Ranking, fused
from recsys.lexical import LexicalIndex
from recsys.personal import personalised
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from recsys.retrieval.best import best_of

DEPTH = 200
"""Items that words and meaning each may find, and at most as many as are put into the user's order."""
F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
QueryEncoder = Callable[[str], F32]
"""A query to a unit vector (embedding_size,) of the space that the catalogue's embeddings are in."""
Taken = Callable[[str], Mapping[str, float]]
"""A query to the number of users who took an item after it, by item id."""
TAKEN_WEIGHT = 3.0
"""What is taken after a query may weigh more than words and meaning together: users have read what they took."""
HALF_TRUST = 5
"""Users after which it weighs half of that."""


def nothing_taken(_: str) -> Mapping[str, float]:
    """Nobody took anything after the query, or nobody knows."""
    return {}


class Search:
    """Items that answer a query. Without `encode`, words (and near misses of them) alone are compared. `carried` is
    what the search over the catalogue of a moment ago has left. `taken` says what users took after the query, which
    lifts these items the more, the more users there are, and finds those that share no word with it.
    """

    def __init__(
        self,
        recommender: Recommender,
        encode: QueryEncoder | None = None,
        carried: Carried = NOTHING_CARRIED,
        taken: Taken = nothing_taken,
    ) -> None:
        self._recommender, self._encode, self._carried, self._taken = recommender, encode, carried, taken
        self._lock = Lock()

    @property
    def index(self) -> LexicalIndex | ChangedIndex | None:
        """What words are looked up in; None where it is not made yet."""
        made: LexicalIndex | ChangedIndex | None = self.__dict__.get("_index")
        return made

    def recommend(self, query: str, request: Request) -> Recommendation:
        """The best `request.n` items, fewer where fewer match. Of the request, its `filters` and `exclude` hold, and
        its user, if any, has a say in the order; seen items stay in.
        """
        if not query.strip():
            raise RequestError("q", "q is empty; write what is looked for")
        with self._lock:
            self.warm_up()
        found = self._found(query, self._shown(request))
        if request.user is not None or request.recent:
            found = personalised(found, self._recommender, request, DEPTH)
        n = request.n
        items = self._recommender.items_of(found.item_rows[:n], found.scores[:n], found.names[:n])
        reason = "" if items else "no item that may be shown has these words or ones like them"
        return Recommendation(request.request_id, request.user, "search", reason, items)

    def warm_up(self) -> None:
        """Make the index, if it is not made yet: some seven seconds for 100,000 items with descriptions."""
        self._index  # noqa: B018  (made at its first use)

    @cached_property
    def _index(self) -> LexicalIndex | ChangedIndex:
        catalogue, before = self._recommender.model.catalogue, self._carried.index
        if before is None:
            return LexicalIndex.of(catalogue)
        rows = self._carried.rows(catalogue)
        made = ChangedIndex.of(before) if isinstance(before, LexicalIndex) else before
        return made.with_rows(catalogue, rows)

    def _shown(self, request: Request) -> BoolArray:
        shown = self._recommender.allowed(request).copy()
        excluded = self._recommender.model.catalogue.items.rows(list(request.exclude))
        shown[excluded[excluded >= 0]] = False
        return shown

    def _found(self, query: str, shown: BoolArray) -> Fused:
        lexical = self._index.scores(query)
        best = _best(lexical, shown & (lexical > 0))
        rankings = [Ranking("words", 1.0, best, lexical[best] / lexical[best].max(initial=1e-9))]
        embeddings = self._recommender.model.features.pairs.embeddings
        if self._encode is not None and embeddings.shape[1]:
            cosines = embeddings @ on_grid(self._encode(query), items=False)
            rankings.append(Ranking("meaning", 1.0, _best(cosines, shown & (cosines > 0))))
        rankings.append(self._learned(query, shown))
        return fused(rankings, self._recommender.id_order)

    def _learned(self, query: str, shown: BoolArray) -> Ranking:
        """What users took after the query; no item, and so no say, where there is none that may be shown."""
        taken = self._taken(query)
        ids = sorted(taken)
        rows = self._recommender.model.catalogue.items.rows(ids)
        users = np.zeros(len(shown))
        users[rows[rows >= 0]] = np.array([taken[item] for item in ids])[rows >= 0]
        best = _best(users, shown & (users > 0))
        most = users[best].max(initial=0.0)
        return Ranking("taken", TAKEN_WEIGHT * most / (most + HALF_TRUST), best, users[best] / max(most, 1e-9))


def _best(values: npt.NDArray[np.floating], shown: BoolArray) -> Ints:
    rows = np.flatnonzero(shown)
    return best_of(values[rows].astype(np.float32), rows, DEPTH, -np.inf)
