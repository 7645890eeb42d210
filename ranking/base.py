"""The one contract of rankers."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from features.builder import FeatureMatrix


class Ranker(Protocol):
    """Scores candidates. `kind` is its name in settings and manifests."""

    kind: ClassVar[str]

    def score(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        """(n_pairs,) float64, higher is better; comparable within one list only. A row's score depends on that row
        alone.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write plain files into the new folder `folder`."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


@runtime_checkable
class ForestRanker(Protocol):
    """A ranker whose scores can be taken apart."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its features, in order."""
        ...

    def contributions(self, features: FeatureMatrix) -> npt.NDArray[np.float64]:
        """(n_pairs, n_features + 1) TreeSHAP values, the last column the expected score."""
        ...

    def gains(self) -> dict[str, float]:
        """Total gain of each feature."""
        ...
