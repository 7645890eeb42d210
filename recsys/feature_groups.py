"""What can be taken away from a ranker's features: a source with all it says, or a group of features."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix
from features.tables import BoolArray, FloatArray
from ranking.examples import RankingExamples, SplitExamples
from recsys.scoring import agreement

_RANK = ":rank"
AGREEMENT, VIEWS, PAIRS = "source agreement", "source views", "affinities and price"
_GROUPS = {
    "sources": AGREEMENT, "item": "item popularity and time", "user": "user", "text": "text matches",
    "dismissed": "dismissals",
}  # fmt: skip
"""Group of the features with that prefix; the features of any other prefix make a group of that name."""


@dataclass(frozen=True)
class Ablation:
    """`columns` leave the features; where `source` is named, so do the candidates that no other source offers."""

    name: str
    columns: frozenset[str]
    source: str | None = None


def ablations(names: Sequence[str]) -> list[Ablation]:
    """Each source out (where others are left), then each group of features out, in the order of their `names`."""
    sources = source_names(names)
    made = [source_ablation(names, source) for source in sources]
    groups: dict[str, set[str]] = {}
    for name in names:
        group = feature_group(name, sources)
        if group is not None:
            groups.setdefault(group, set()).add(name)
    by_group = [Ablation(f"without features: {group}", frozenset(own)) for group, own in groups.items()]
    return (made if len(sources) > 1 else []) + by_group


def source_ablation(names: Sequence[str], source: str) -> Ablation:
    """One source out."""
    return Ablation(f"without {source}", frozenset(name for name in names if name.startswith(f"{source}:")), source)


def source_names(names: Sequence[str]) -> list[str]:
    """The sources that have a say in features of these names."""
    return [name.removesuffix(_RANK) for name in names if name.endswith(_RANK)]


def feature_group(name: str, sources: Collection[str]) -> str | None:
    """The group of one feature; None for the scores and ranks that the sources recommend by."""
    scope, _, rest = name.partition(":")
    if scope in sources:
        return {"score": None, "rank": None, "relative": AGREEMENT}.get(rest, VIEWS)
    if scope == "pair" or name.startswith("item:ahead:"):
        return PAIRS
    return _GROUPS.get(scope, scope)


def still_offered(matrix: FeatureMatrix, ablation: Ablation) -> BoolArray:
    """(n_pairs,) bool: the pairs that a source offers which is still there."""
    if ablation.source is None:
        return np.ones(len(matrix.query_rows), bool)
    return np.asarray(~np.isnan(_ranks(matrix, ablation)).all(axis=1))


def reduced(matrix: FeatureMatrix, ablation: Ablation, keep: BoolArray) -> FeatureMatrix:
    """The pairs `keep` (n_pairs,) without the ablation's columns; what the sources' ranks say together is counted
    again. A source's score relative to the best in the list stays what it was among all candidates.
    """
    names = tuple(name for name in matrix.names if name not in ablation.columns)
    columns = np.array([matrix.names.index(name) for name in names], np.int64)
    values = matrix.values[np.ix_(np.flatnonzero(keep), columns)]
    if ablation.source is not None:
        for name, column in agreement(_ranks(matrix, ablation)[keep].T).items():
            if name in names:
                values[:, names.index(name)] = column
    return FeatureMatrix(names, values, matrix.query_rows[keep])


def ablated_examples(examples: SplitExamples, ablation: Ablation) -> SplitExamples:
    """What the ranker would have learned from; see `ablated`."""
    left, lists = ablated(examples.everything, ablation)
    return SplitExamples(left, int((lists < examples.num_train).sum()))


def ablated(examples: RankingExamples, ablation: Ablation) -> tuple[RankingExamples, npt.NDArray[np.int64]]:
    """The examples after an ablation, and which lists (n_left,) they are: lists that no longer hold a label are left
    out, as in training.
    """
    query_rows = examples.features.query_rows
    keep = still_offered(examples.features, ablation)
    keep &= np.bincount(query_rows, examples.labels * keep, len(examples))[query_rows] > 0
    groups = np.bincount(query_rows[keep], minlength=len(examples))
    lists = np.flatnonzero(groups)
    features = reduced(examples.features, ablation, keep)
    features = dataclasses.replace(features, query_rows=np.repeat(np.arange(len(lists)), groups[lists]))
    left = RankingExamples(
        features, examples.labels[keep], groups[lists].astype(np.int64), examples.users[lists],
        examples.num_labels[lists],
    )  # fmt: skip
    return left, lists


def _ranks(matrix: FeatureMatrix, ablation: Ablation) -> FloatArray:
    """(n_pairs, n_sources) ranks by the sources that are left."""
    left = [name for name in matrix.names if name.endswith(_RANK) and name not in ablation.columns]
    return np.stack([matrix.column(name) for name in left], axis=1)
