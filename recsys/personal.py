"""An order that was found without the user, and the user's own order of the same items, made one."""

from __future__ import annotations

import dataclasses

import numpy as np

from recsys.fusion import Fused
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.shapes import Exploration

USER_SHARE = 0.5
"""The user's favourite of what was found counts so much more, their least favourite no more: among like answers it is
the user who decides, but none overtakes one that is more than half again as good an answer.
"""


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
    liking = dict(zip(own.tolist(), np.linspace(1, 0, len(own)), strict=True))
    factors = [1 + USER_SHARE * liking.get(row, 0.0) for row in found.item_rows.tolist()]
    scores = np.round(found.scores * factors / (1 + USER_SHARE), 6)
    order = np.lexsort((recommender.id_order[found.item_rows], -scores))
    return Fused(found.item_rows[order], scores[order], [found.names[k] for k in order])
