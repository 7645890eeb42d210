"""How long the stages of an answer take: candidates, features, ranker and shaping, told to whoever observes."""

from __future__ import annotations

import time
from collections.abc import Callable

Observer = Callable[[str, float], None]
"""Takes a stage's name and the seconds that it took."""
STAGES = ("history", "candidates", "features", "ranker", "shaping")


def nobody(stage: str, seconds: float) -> None:
    """The observer where nobody wants to know."""


class StageClock:
    """Tells the observer, at each `lap`, what has passed since the one before."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The stage ends now."""
        now = time.perf_counter()
        self._observe(stage, now - self._last)
        self._last = now
