"""Items like an item: by text and by behaviour, one of each product, in the user's order where a user is given."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import numpy.typing as npt

from features.item_sets import ItemSets
from features.tables import TITLE
from recsys.carried import NOTHING_CARRIED, Carried
from recsys.errors import RequestError
from recsys.fusion import Fused, Ranking, fused
from recsys.item_groups import groups_of
from recsys.personal import personalised
from recsys.recommender import Recommender
from recsys.requests import HistoryEvent, Recommendation, RecommendedItem, Request
from recsys.retrieval.new_items import NewItemsSource
from recsys.retrieval.popularity import PopularitySource
from recsys.retrieval.text_profile import TextProfileSource

DEPTH = 200
"""Items that each source is asked for, whatever n is: a list of n is the beginning of a longer one."""
PERSONAL = 100
"""Items that are put into the user's order; those behind keep theirs."""
HALF_TRUST = 10
"""Events after which an item's behaviour says half of what it can."""
NOT_ASKED = (PopularitySource.name, NewItemsSource.name)
"""They say nothing about the item itself."""
Ints = npt.NDArray[np.int64]


class Similar:
    """Every source is asked what it makes of a history that is the item alone, and the orders are fused by rank.

    Text counts from the first day, behaviour as far as there is any: with c events, behaviour has the weight
    c / (c + 10) / 2, shared by its sources, and text the rest. So a new item is compared by its text alone, and a
    much-used one by both alike: text finds substitutes (the same kind of thing), behaviour complements (what is taken
    together), and a product page wants both. Ranks are fused because the sources' scores have no common scale.
    """

    def __init__(self, recommender: Recommender, carried: Carried = NOTHING_CARRIED) -> None:
        self._recommender, self._carried = recommender, carried
        self._model = recommender.model

    def recommend(self, item_id: str, request: Request) -> Recommendation:
        """`request.n` items, fewer where fewer are like it; RequestError where the item is unknown. Of the request, its
        `filters` and `exclude` hold, and its user, if any, is asked for the order; seen items stay in.
        """
        items = self._model.catalogue.items
        if item_id not in items:
            raise RequestError("item", f"item {item_id[:80]!r} is not in the catalogue")
        row = items.row(item_id)
        found = self._one_a_group(self._found(row, request))
        if request.user is not None or request.recent:
            found = personalised(found, self._recommender, request, PERSONAL)
        return Recommendation(
            request.request_id, request.user, "similar", self._reason(row), self._items(found, request.n), 0
        )

    def warm_up(self) -> None:
        """Make the groups, if they are not made yet."""
        self._groups  # noqa: B018  (made at its first use)

    @property
    def groups(self) -> Ints | None:
        """(n_items,) which product each item is a variant of; None where it is not known yet."""
        made: Ints | None = self.__dict__.get("_groups")
        return made

    @cached_property
    def _groups(self) -> Ints:
        catalogue, before = self._model.catalogue, self._carried.groups
        titles = catalogue.frame[TITLE]
        if before is None:
            return groups_of(titles.tolist())
        rows = self._carried.rows(catalogue)
        groups = np.empty(len(catalogue), np.int64)
        groups[: len(before)] = before
        groups[rows] = groups_of([titles.array[row] for row in rows.tolist()], rows.tolist())
        return groups

    def _num_events(self, row: int) -> int:
        counts = self._model.histories.item_counts
        return int(counts[row]) if row < len(counts) else 0

    def _found(self, row: int, request: Request) -> Fused:
        one = self._recommender.histories([Request(history=(HistoryEvent(self._model.catalogue.items.ids[row]),))])
        allowed = self._recommender.allowed(dataclasses.replace(request, among=None))
        excluded = self._model.catalogue.items.rows(list(request.exclude))
        own = np.flatnonzero(self._groups == self._groups[row])
        blocked = ItemSets.of([np.concatenate([own, excluded[excluded >= 0]])])
        asked = [source for source in self._model.sources if source.name not in NOT_ASKED]
        text, behaviour = self._weights(row, [source.name for source in asked])
        return fused(
            [
                Ranking(
                    source.name,
                    text if source.name == TextProfileSource.name else behaviour,
                    source.scores(one)[""].top(DEPTH, blocked, allowed).item_rows,
                )
                for source in asked
            ],
            self._recommender.id_order,
        )

    def _weights(self, row: int, names: list[str]) -> tuple[float, float]:
        """What the text weighs, and each source of behaviour."""
        num_behaviour = len(names) - (TextProfileSource.name in names)
        if TextProfileSource.name not in names:
            return 0.0, 1.0
        num_events = self._num_events(row)
        trust = num_events / (num_events + HALF_TRUST) / 2
        return 1.0 - trust, trust / max(num_behaviour, 1)

    def _one_a_group(self, found: Fused) -> Fused:
        """The best of each product."""
        _, first = np.unique(self._groups[found.item_rows], return_index=True)
        kept = np.sort(first)
        return Fused(found.item_rows[kept], found.scores[kept], [found.names[k] for k in kept])

    def _reason(self, row: int) -> str:
        return "" if self._num_events(row) else "nobody has touched the item yet, so its text alone is compared"

    def _items(self, found: Fused, n: int) -> tuple[RecommendedItem, ...]:
        return self._recommender.items_of(found.item_rows[:n], found.scores[:n], found.names[:n])
