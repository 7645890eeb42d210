"""A variant of the product, judged on the same queries as the product itself: one row of plain figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recsys.evaluation_result import NDCG, Evaluation, SystemResult, difference
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from recsys.threads import limit_threads

ItemLists = list[list[str]]
Row = dict[str, Any]


def variant_row(name: str, lists: Sequence[Sequence[str]], seconds: float, evaluation: Evaluation) -> Row:
    """`lists` are the variant's answers to the evaluation's requests. `difference` is its NDCG@10 less the product's,
    `low` to `high` the 95 % interval of a paired bootstrap clustered by user; `seconds` is what the variant cost.
    """
    result = SystemResult.of(name, lists, evaluation.task, evaluation.seed)
    found = difference(result, evaluation.product, evaluation.task, evaluation.seed)
    return {
        "name": name,
        NDCG: result.mean(),
        "difference": found.difference,
        "low": found.interval.low,
        "high": found.interval.high,
        "recall@50": result.mean("recall@50"),
        "cold_recall@10": result.mean("cold_recall@10"),
        "seconds": round(seconds, 2),
    }


def product_lists(model: FittedModel, requests: Sequence[Request]) -> ItemLists:
    """The item ids that a user would get for each request, best first; on one thread, as in service."""
    with limit_threads(1):
        return item_lists(Recommender(model).recommend_many(requests))


def item_lists(answers: Sequence[Recommendation]) -> ItemLists:
    """The item ids of each answer, best first."""
    return [[item.item_id for item in answer.items] for answer in answers]
