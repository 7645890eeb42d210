"""An order that was found without the user, and the user's own order of the same items, made one."""

from __future__ import annotations

import dataclasses

from recsys.fusion import Fused, Ranking, fused
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.shapes import Exploration

FOUND_WEIGHT, USER_WEIGHT = 2.0, 1.0
"""What was asked for counts twice as much as who asks."""


def personalised(found: Fused, recommender: Recommender, request: Request, depth: int) -> Fused:
    """The first `depth` items of `found` in an order that takes the request's user into account; the rest behind."""
    head = found.item_rows[:depth]
    if not len(head):
        return found
    ids = recommender.model.catalogue.items.ids
    limit = min(len(head), recommender.model.settings.serve.max_n)
    asked = dataclasses.replace(
        request, n=limit, among=tuple(ids[head]), filters=(), exclude=(), exclude_seen=False, diversity=0.0, caps=(),
        exploration=Exploration(),
    )  # fmt: skip
    answer = recommender.recommend(asked)
    if answer.strategy == "popular":
        return found
    own = recommender.model.catalogue.items.rows([item.item_id for item in answer.items])
    rankings = [Ranking("found", FOUND_WEIGHT, found.item_rows), Ranking("user", USER_WEIGHT, own)]
    both = fused(rankings, recommender.id_order)
    names = dict(zip(found.item_rows.tolist(), found.names, strict=True))
    return Fused(both.item_rows, both.scores, [names[row] for row in both.item_rows.tolist()])
