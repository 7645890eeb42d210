"""LambdaMART (Burges 2010) by LightGBM, several forests in one."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import lightgbm
import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.builder import FeatureMatrix
from features.seeds import member_seed
from features.settings import Settings
from ranking.by_score import ByScoreRanker
from ranking.examples import RankingExamples
from ranking.forest import Forest, TooLargeError
from ranking.grades import ALIKE, Grades

logger = logging.getLogger(__name__)


class LambdaMartSettings(Settings):
    """LightGBM's settings, under the names of the field."""

    objective: Literal["lambdarank", "rank_xendcg"] = "lambdarank"
    """LambdaMART's own, or the cross-entropy bound of NDCG (Bruch 2021)."""
    label_gain: float = Field(default=1.0, ge=0, le=10)
    """What is bought counts more than what is viewed: a right item counts the weight of its strongest event
    (`events.weights`, the largest 1) to this power, and a list what its best item counts. 0: all count the same. Of the
    items of one list `rank_xendcg` knows the order alone. What judges the forest knows right and wrong only.
    """
    num_trees: int = Field(default=200, ge=1)
    """Of one forest, at most. Where there are lists enough, several forests added up do not get worse for many more; a
    few hundred held-out lists can't say where to stop, and stopping too early costs more.
    """
    min_lists_per_tree: float = Field(default=5.0, ge=0)
    """Fewer trees where there are fewer lists to learn from than that: a few hundred lists are learned by heart. 0: as
    many always.
    """
    num_leaves: int = Field(default=16, ge=2)
    """Trees of more than 64 are scored by LightGBM itself, which takes a list's time several times over."""
    learning_rate: float = 0.05
    min_examples_per_leaf: int = 60
    feature_fraction: float = 0.5
    row_fraction: float = 0.8
    l2: float = 5.0
    truncation_level: int = 20
    """Positions at the head of the list that the loss cares for."""
    forests: int = Field(default=3, ge=1, le=20)
    """Forests of different seeds whose scores are added up; a request pays for the trees of all."""
    share_held_out: float = Field(default=0.2, gt=0, lt=1)
    """Users (not lists) kept for the comparison with the sources' joint order."""
    tolerance: float = Field(default=1.0, ge=0)
    """Standard errors by which the forest may be behind the sources' joint order on the held-out users; else that order
    is used.
    """
    sources_first: float = Field(default=2.0, ge=0)
    """Boosting starts from the sources' joint order (`ByScoreRanker`, 1 for what is first in all of them) times this,
    and few lists only correct it. 0: from nothing.
    """

    def trees_for(self, num_lists: int) -> int:
        """Trees of a forest, judged or shipped, where so many lists fit the one that is judged."""
        most = self.num_trees if not self.min_lists_per_tree else int(num_lists / self.min_lists_per_tree)
        return min(self.num_trees, max(1, most))


@dataclass(frozen=True)
class LambdaMartRanker:
    """A fitted forest, and what it was boosted from: `start` times `start_scale`. `names` are the features it was
    trained on, in order: a matrix that lacks one is an error, what else it holds is not looked at.
    """

    kind: ClassVar[str] = "lambdamart"
    model_text: str = field(repr=False)
    names: tuple[str, ...]
    start: ByScoreRanker
    start_scale: float
    _booster: lightgbm.Booster = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_booster", lightgbm.Booster(model_str=self.model_text))

    @classmethod
    def fit(
        cls, train: RankingExamples, num_trees: int, settings: LambdaMartSettings, seed: int, num_threads: int
    ) -> Self:
        """`settings.forests` forests of exactly `num_trees` trees on `train`, as one."""
        grades, start = Grades.of(train, settings.label_gain), ByScoreRanker.fit(train)
        first = settings.sources_first * start.score(train.features)
        data, names = _dataset(train, grades, first), train.features.names
        texts = []
        for number in range(settings.forests):
            parameters = _parameters(settings, grades, member_seed(seed, number), num_threads)
            texts.append(lightgbm.train(parameters, data, num_boost_round=num_trees).model_to_string())
        return cls(joined(texts), names, start, settings.sources_first * settings.forests)

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        """Raw scores, (n_pairs,)."""
        if not len(features.values):
            return np.empty(0)
        own, forest = self._own(features), self._forest
        trees = self._booster.predict(own, num_threads=1) if forest is None else forest.score(own)
        return self.start_scale * self.start.score(features) + np.asarray(trees, np.float64)

    @cached_property
    def _forest(self) -> Forest | None:
        """None: LightGBM itself has to score the trees."""
        try:
            return Forest.of(self._booster)
        except TooLargeError as error:
            logger.warning("lists take longer, because %s", error)
            return None

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        """TreeSHAP values (n_pairs, n_features + 1), the last column the trees' expected score (Lundberg et al. 2020).
        What the forest was boosted from counts for the sources' ranks.
        """
        if not len(features.values):
            return np.empty((0, len(self.names) + 1))
        shares = np.asarray(self._booster.predict(self._own(features), pred_contrib=True, num_threads=1), np.float64)
        for source, share in zip(self.start.sources, self.start.shares(features), strict=True):
            shares[:, self.names.index(f"{source}:rank")] += self.start_scale * share
        return shares

    def _own(self, features: FeatureMatrix) -> npt.NDArray[np.float32]:
        """The columns that the forest was trained on, (n_pairs, n_features)."""
        if features.names == self.names:
            return features.values
        return features.values[:, _places(self.names, features.names)]

    def gains(self) -> dict[str, float]:
        """Total gain of each feature's splits, largest first."""
        gains = self._booster.feature_importance(importance_type="gain")
        return dict(sorted(zip(self.names, map(float, gains), strict=True), key=lambda pair: -pair[1]))

    @property
    def num_trees(self) -> int:
        """Trees in the forest."""
        return int(self._booster.num_trees())

    def save(self, folder: Path) -> None:
        """See `Ranker.save`."""
        folder.mkdir(parents=True)
        (folder / "lambdamart.txt").write_text(self.model_text, encoding="utf-8")
        (folder / "features.json").write_text(json.dumps(self.names), encoding="utf-8")
        (folder / "start.json").write_text(json.dumps({"scale": self.start_scale}), encoding="utf-8")
        self.start.save(folder / "start")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Ranker.load`."""
        names = tuple(json.loads((folder / "features.json").read_text(encoding="utf-8")))
        scale = json.loads((folder / "start.json").read_text(encoding="utf-8"))["scale"]
        text = (folder / "lambdamart.txt").read_text(encoding="utf-8")
        return cls(text, names, ByScoreRanker.load(folder / "start"), scale)


@lru_cache(maxsize=32)
def _places(wanted: tuple[str, ...], given: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Where the `wanted` features are among the `given` ones."""
    missing = sorted(set(wanted) - set(given))
    if missing:
        raise ValueError(f"the ranker was trained on other features; missing: {', '.join(missing)}")
    return np.array([given.index(name) for name in wanted], np.int64)


def joined(texts: Sequence[str]) -> str:
    """Several LightGBM models of the same features as one, whose score is the sum of theirs."""
    heads, trees = [], []
    for text in texts:
        head, *own = re.split(r"^Tree=\d+\n", text.partition("\nend of trees")[0] + "\n", flags=re.MULTILINE)
        heads.append(head)
        trees += own
    blocks = [f"Tree={number}\n{tree.rstrip()}\n\n\n" for number, tree in enumerate(trees)]
    sizes = " ".join(str(len(block.encode())) for block in blocks)
    head = re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", heads[0], flags=re.MULTILINE)
    return head + "".join(blocks) + "end of trees" + texts[0].partition("\nend of trees")[2]


def _dataset(examples: RankingExamples, grades: Grades, first: npt.NDArray[np.float64]) -> lightgbm.Dataset:
    names = [f"f{k}" for k in range(len(examples.features.names))]  # LightGBM refuses some characters in names
    return lightgbm.Dataset(
        examples.features.values, grades.labels, weight=grades.weights, group=examples.groups, init_score=first,
        feature_name=names,
    )  # fmt: skip


def _parameters(settings: LambdaMartSettings, grades: Grades, seed: int, num_threads: int) -> dict[str, Any]:
    return {
        "objective": settings.objective,
        "lambdarank_truncation_level": settings.truncation_level,
        "learning_rate": settings.learning_rate, "num_leaves": settings.num_leaves, "lambda_l2": settings.l2,
        "min_data_in_leaf": settings.min_examples_per_leaf, "feature_fraction": settings.feature_fraction,
        "bagging_fraction": settings.row_fraction, "bagging_freq": 1, "seed": seed, "deterministic": True,
        "force_row_wise": True, "num_threads": num_threads, "verbose": -1,
    } | ({} if grades.gains == ALIKE else {"label_gain": list(grades.gains)})  # fmt: skip
