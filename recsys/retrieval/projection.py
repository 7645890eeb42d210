"""From text to behaviour: a linear map from text embeddings to a source's item factors (Gantner et al. 2010), so that
an item that nobody has touched gets factors as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.tables import FloatArray, IntArray
from recsys.retrieval.base import FitData
from recsys.retrieval.scores import F32

Wide = npt.NDArray[np.float64]
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Ridge penalties tried, in units of the mean item weight."""
MIN_ITEMS = 20
"""Items with text and events that a map is learned from at least."""
MAX_EVIDENCE = 100.0
"""Events above which an item's factors are no better known."""
MAX_SCALE = 5.0
_SHARE_HELD_OUT = 0.2


@dataclass(frozen=True)
class Training:
    """What the map is learned from: `embeddings` (n_items, embedding_size), zero rows without text; `factors` (n_items,
    size); `counts` (n_items,) events; `likers` (n_items, size), the sum of the factors of the item's users; `user_gram`
    (size, size), the Gram matrix of all users' factors.
    """

    embeddings: FloatArray
    factors: FloatArray
    counts: IntArray
    likers: FloatArray
    user_gram: FloatArray

    def of(self, rows: IntArray) -> Training:
        """The items at `rows`."""
        return Training(self.embeddings[rows], self.factors[rows], self.counts[rows], self.likers[rows], self.user_gram)


def project_factors(data: FitData, users: F32, items: F32) -> F32 | None:
    """The map from text to `items` (n_items, size), the factors of a model whose users' are `users` (num_users, size);
    None without text, or where too few items have both text and events.
    """
    texts = data.plain_texts
    if texts is None:
        return None
    liked = data.matrix.astype(bool).astype(np.float32)
    wide = users.astype(np.float64)
    likers = np.asarray(liked.T @ users, np.float64)
    known = Training(texts, items, np.asarray(liked.getnnz(axis=0)), likers, wide.T @ wide)
    projection = fit_projection(known, np.random.default_rng(data.seed))
    return None if projection is None else data.of_embeddings(projection)


def with_text(data: FitData, factors: F32, projection: F32, evidence: float) -> F32:
    """`factors` (n_items, size), each item's mixed with what its text predicts, its events against `evidence`: an item
    without events has the prediction alone, one without text its own alone.
    """
    if data.embeddings is None:
        return factors
    counts = np.asarray(data.matrix.getnnz(axis=0), np.float64)
    trust = np.where(counts > 0, evidence / np.maximum(counts + evidence, 1.0), 1.0)
    trust = np.where(data.embeddings.any(axis=1), trust, 0.0).astype(np.float32)[:, None]
    return np.asarray((1 - trust) * factors + trust * mapped(data.embeddings, projection), np.float32)


def mapped(embeddings: F32, projection: F32) -> F32:
    """`embeddings` (n, embedding_size) @ `projection`, float32."""
    return np.asarray(embeddings.astype(np.float64) @ projection.astype(np.float64), np.float32)


def fit_projection(data: Training, rng: np.random.Generator) -> F32 | None:
    """(embedding_size, size) float32, the map; None where too few items have both text and events.

    Ridge regression, items weighted by the root of their events. The penalty is the one that predicts the factors of
    held-out items best. Least squares shrinks what it is unsure of, so the map is scaled until a unit of predicted
    score stands for as much preference of the held-out items' users as a unit of score by their own factors does.
    """
    usable = np.flatnonzero((data.counts > 0) & data.embeddings.any(axis=1))
    if len(usable) < MIN_ITEMS:
        return None
    shuffled = rng.permutation(usable)
    cut = max(1, round(_SHARE_HELD_OUT * len(usable)))
    held_out, train = data.of(np.sort(shuffled[:cut])), data.of(np.sort(shuffled[cut:]))
    tried = [(penalty, held_out.embeddings @ _ridge(train, penalty)) for penalty in PENALTIES]
    penalty, predicted = min(tried, key=lambda pair: _error(held_out, pair[1]))
    return np.asarray(_ridge(data.of(usable), penalty) * _scale(held_out, predicted), np.float32)


def _ridge(data: Training, penalty: float) -> Wide:
    weights = _evidence(data)[:, None]
    x, y = data.embeddings.astype(np.float64), data.factors.astype(np.float64)
    gram = x.T @ (weights * x) + penalty * weights.mean() * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(gram, x.T @ (weights * y)), np.float64)


def _evidence(data: Training) -> Wide:
    return np.sqrt(np.minimum(data.counts, MAX_EVIDENCE))


def _error(held_out: Training, predicted: Wide) -> float:
    """Weighted squared error in the space of scores: factors that no user's vector points along don't matter."""
    off = predicted - held_out.factors
    return float((_evidence(held_out) * np.einsum("ij,jk,ik->i", off, held_out.user_gram, off)).sum())


def _scale(held_out: Training, predicted: Wide) -> float:
    """Preference a unit of predicted score, over that a unit of score by the items' own factors, within 1/5 .. 5."""
    own, guessed = _slope(held_out, held_out.factors), _slope(held_out, predicted)
    return float(np.clip(guessed / own, 1 / MAX_SCALE, MAX_SCALE)) if own > 0 and guessed > 0 else 1.0


def _slope(held_out: Training, factors: FloatArray) -> float:
    """The least-squares slope of preference (1 where the user liked the item, else 0) on the score of all pairs."""
    squares = np.einsum("ij,jk,ik->", factors, held_out.user_gram, factors)
    return float((factors * held_out.likers).sum() / squares) if squares > 0 else 0.0
