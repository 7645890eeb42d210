"""Examples: the best and the worst lists of users with enough history, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.tables import TITLE, Catalogue
from recsys.list_rows import ABSENT, ListRows
from recsys.metrics import Floats
from recsys.splits import EvaluationTask

NUM_EXAMPLES = 4
"""Lists of either kind."""
ENOUGH_EVENTS = 5
"""Events in a history that says something, where any user has so many."""
SHOWN_EVENTS, SHOWN_ITEMS = 10, 10
_LONGEST_TITLE = 160


def example_lists(
    task: EvaluationTask, ndcg: Floats, lists: ListRows, catalogue: Catalogue
) -> dict[str, list[dict[str, Any]]]:
    """`best` and `worst` lists by `ndcg` (n_queries,), one a user: the newest events of the history, the right items
    and the head of the list. Of equal ones, those with more right items come first, then the earlier queries.
    """
    chosen = _queries(task, ndcg)
    writer = _Writer(task, lists, catalogue)
    return {
        kind: [writer.example(query, float(ndcg[query])) for query in queries]
        for kind, queries in zip(("best", "worst"), chosen, strict=True)
    }


def _queries(task: EvaluationTask, ndcg: Floats) -> tuple[list[int], list[int]]:
    lengths = np.array([len(request.history or ()) for request in task.requests])
    enough = np.flatnonzero((lengths >= min(ENOUGH_EVENTS, int(lengths.max(initial=0)))) & ~np.isnan(ndcg))
    num_relevant = np.array([len(truth) for truth in task.truths])[enough]
    best = _of_different_users(enough[np.lexsort((enough, -num_relevant, -ndcg[enough]))], task.users)
    worst = _of_different_users(enough[np.lexsort((enough, -num_relevant, ndcg[enough]))], task.users)
    return best, [query for query in worst if query not in best]


def _of_different_users(queries: npt.NDArray[np.int64], users: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    for query in queries.tolist():
        first.setdefault(users[query], query)
        if len(first) == NUM_EXAMPLES:
            break
    return list(first.values())


class _Writer:
    """Writes queries down with titles; `lists` are in rows of `catalogue`."""

    def __init__(self, task: EvaluationTask, lists: ListRows, catalogue: Catalogue) -> None:
        self._task, self._lists = task, lists
        self._items, self._titles = catalogue.items, catalogue.frame[TITLE]

    def example(self, query: int, ndcg: float) -> dict[str, Any]:
        request, truth = self._task.requests[query], self._task.truths[query]
        rows = self._lists.item_rows[query]
        listed = self._items.ids[rows[rows != ABSENT]].tolist()
        ranks = {item_id: rank for rank, item_id in enumerate(listed, start=1)}
        history = request.history or ()
        return {
            "user": request.user, "at": request.at, "ndcg@10": ndcg, "num_events": len(history),
            "history": [self._item(e.item_id) | {"event": e.event} for e in reversed(history[-SHOWN_EVENTS:])],
            "truth": [
                self._item(item_id) | {"rank": ranks.get(item_id), "new": item_id in self._task.cold}
                for item_id in sorted(truth, key=lambda item_id: (ranks.get(item_id, len(ranks) + 1), item_id))
            ][:SHOWN_ITEMS],
            "num_truth": len(truth),
            "list": [self._item(item_id) | {"hit": item_id in truth} for item_id in listed[:SHOWN_ITEMS]],
        }  # fmt: skip

    def _item(self, item_id: str) -> dict[str, Any]:
        title = str(self._titles.iloc[self._items.row(item_id)]) if item_id in self._items else ""
        return {"item_id": item_id, "title": title if len(title) <= _LONGEST_TITLE else title[:_LONGEST_TITLE] + "…"}
