"""A model whose ranker lacks the first features of the matrix, as gating leaves it."""

from __future__ import annotations

import dataclasses

import numpy as np

from features.builder import FeatureMatrix
from ranking.examples import RankingExamples
from ranking.lambdamart import LambdaMartRanker, LambdaMartSettings
from recsys.model import FittedModel
from recsys.recommender import Recommender
from recsys.requests import Request

NUM_DROPPED = 3


def gated_model(model: FittedModel) -> FittedModel:
    """`model` with a forest of all features but the first, which learns to like every third item."""
    users = model.users.ids[:40].tolist()
    asked = Recommender(model).candidates([Request(user=user) for user in users])
    matrix, rows = asked.matrix, asked.found.pairs.item_rows
    kept = FeatureMatrix(matrix.names[NUM_DROPPED:], matrix.values[:, NUM_DROPPED:], matrix.query_rows)
    groups = np.bincount(matrix.query_rows, minlength=len(users)).astype(np.int64)
    labels = (rows % 3 == 0).astype(np.float32)
    examples = RankingExamples(kept, labels, groups, np.arange(len(users)), np.ones(len(users), np.int64))
    forest = LambdaMartSettings(num_leaves=4, min_examples_per_leaf=5)
    return dataclasses.replace(model, ranker=LambdaMartRanker.fit(examples, 20, forest, seed=0, num_threads=1))
