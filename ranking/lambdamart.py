"""LambdaMART (Burges 2010) by LightGBM."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import lightgbm
import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.builder import FeatureMatrix
from features.settings import Settings
from ranking.examples import RankingExamples


class LambdaMartSettings(Settings):
    """LightGBM's settings, under the names of the field."""

    num_trees: int = Field(default=400, ge=1)
    """At most; early stopping ends before."""
    min_trees: int = Field(default=30, ge=1)
    """The shipped forest has at least so many: on easy held-out users the first tree is already perfect, and ties
    decide the rest.
    """
    num_leaves: int = Field(default=24, ge=2)
    learning_rate: float = 0.05
    min_examples_per_leaf: int = 60
    feature_fraction: float = 0.5
    row_fraction: float = 0.8
    l2: float = 5.0
    truncation_level: int = 20
    """Positions at the head of the list that the loss cares for."""
    patience: int = 40
    """Trees without progress on the held-out users after which training ends."""
    share_held_out: float = Field(default=0.2, gt=0, lt=1)
    """Users (not lists) kept for early stopping and for the comparison with the sources."""


@dataclass(frozen=True)
class LambdaMartRanker:
    """A fitted forest. `names` are the features it was trained on, in order; others in a matrix are an error."""

    kind: ClassVar[str] = "lambdamart"
    model_text: str = field(repr=False)
    names: tuple[str, ...]
    _booster: lightgbm.Booster = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_booster", lightgbm.Booster(model_str=self.model_text))

    @classmethod
    def fit(
        cls,
        train: RankingExamples,
        held_out: RankingExamples,
        settings: LambdaMartSettings,
        seed: int,
        num_threads: int,
    ) -> Self:
        """Learn to order `train`, stopping by NDCG@10 on `held_out` (lists of other users)."""
        names = train.features.names
        data = [_dataset(part) for part in (train, held_out)]
        booster = lightgbm.train(
            _parameters(settings, seed, num_threads), data[0], num_boost_round=settings.num_trees, valid_sets=[data[1]],
            callbacks=[lightgbm.early_stopping(settings.patience, verbose=False)],
        )  # fmt: skip
        return cls(booster.model_to_string(num_iteration=booster.best_iteration), names)

    @classmethod
    def fit_trees(
        cls, train: RankingExamples, num_trees: int, settings: LambdaMartSettings, seed: int, num_threads: int
    ) -> Self:
        """Exactly `num_trees` trees on `train`, without early stopping."""
        parameters = _parameters(settings, seed, num_threads)
        booster = lightgbm.train(parameters, _dataset(train), num_boost_round=num_trees)
        return cls(booster.model_to_string(), train.features.names)

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        """The forest's raw scores, (n_pairs,)."""
        if features.names != self.names:
            odd = sorted(set(features.names) ^ set(self.names)) or ["their order"]
            raise ValueError(f"the ranker was trained on other features; different: {', '.join(odd)}")
        if not len(features.values):
            return np.empty(0)
        return np.asarray(self._booster.predict(features.values, num_threads=1), np.float64)

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        """TreeSHAP values (n_pairs, n_features + 1), the last column the expected score (Lundberg et al. 2020)."""
        if not len(features.values):
            return np.empty((0, len(self.names) + 1))
        return np.asarray(self._booster.predict(features.values, pred_contrib=True, num_threads=1), np.float64)

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

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Ranker.load`."""
        names = tuple(json.loads((folder / "features.json").read_text(encoding="utf-8")))
        return cls((folder / "lambdamart.txt").read_text(encoding="utf-8"), names)


def _dataset(examples: RankingExamples) -> lightgbm.Dataset:
    names = [f"f{k}" for k in range(len(examples.features.names))]  # LightGBM refuses some characters in names
    return lightgbm.Dataset(examples.features.values, examples.labels, group=examples.groups, feature_name=names)


def _parameters(settings: LambdaMartSettings, seed: int, num_threads: int) -> dict[str, Any]:
    return {
        "objective": "lambdarank", "metric": "ndcg", "eval_at": [10],
        "lambdarank_truncation_level": settings.truncation_level,
        "learning_rate": settings.learning_rate, "num_leaves": settings.num_leaves, "lambda_l2": settings.l2,
        "min_data_in_leaf": settings.min_examples_per_leaf, "feature_fraction": settings.feature_fraction,
        "bagging_fraction": settings.row_fraction, "bagging_freq": 1, "seed": seed, "deterministic": True,
        "force_row_wise": True, "num_threads": num_threads, "verbose": -1,
    }  # fmt: skip
