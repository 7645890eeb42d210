"""Settings of gating; apart from it, as they are part of the whole tree of settings, which gating reads."""

from __future__ import annotations

from pydantic import Field

from features.settings import Settings


class GatingSettings(Settings):
    """Which sources and groups of features are tried without, and what it may cost."""

    enabled: bool = True
    tolerance: float = -2.0
    """Standard errors of NDCG@10 that the lists may lose without a part for it to be dropped; below 0 they must gain
    as much, as by default: of seventeen parts tried, some look harmful by chance.
    """
    recall_tolerance: float = 0.5
    """The same of recall@50, which only sources must not lower: what one alone finds may be ranked low and matter."""
    max_lists: int = Field(default=4000, ge=2)
    """Training lists looked at: half of the users fit, the other half judge. Every part costs some small forests."""
    min_lists: int = Field(default=400, ge=2)
    """With fewer training lists nothing is dropped: chance would decide."""
    trees: int = Field(default=40, ge=1)
    """Trees of each forest that judges."""
    forests: int = Field(default=2, ge=1)
    """Forests of different seeds that judge together: chance in one moves the lists as much as a part does."""
