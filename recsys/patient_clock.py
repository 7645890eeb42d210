"""A clock for what can't be undone: it follows the machine's, but lets a jump forward wait."""

from __future__ import annotations

import time
from collections.abc import Callable

_PATIENCE = 86_400.0
"""Seconds after which a jump forward is believed: a wrong clock is noticed and set right sooner."""
_SLACK = 60.0
"""Steps of so many seconds are no jump: time servers make them."""
Clock = Callable[[], float]


class PatientClock:
    """Unix seconds: those of `clock`, but after a jump forward what it would say without it, for a day. `not_after`
    (None: whatever it says) is what it may say at most at the start, where more would be taken for a jump.
    """

    def __init__(
        self, clock: Clock = time.time, not_after: float | None = None, monotonic: Clock = time.monotonic
    ) -> None:
        self._clock, self._monotonic = clock, monotonic
        started = clock() if not_after is None else min(clock(), not_after)
        self._offset = started - monotonic()
        self._jumped_at: float | None = None

    def __call__(self) -> float:
        """What it is now."""
        steady = self._monotonic()
        offset = self._clock() - steady
        if offset <= self._offset + _SLACK:
            self._offset, self._jumped_at = offset, None
        elif self._jumped_at is None:
            self._jumped_at = steady
        elif steady - self._jumped_at >= _PATIENCE:
            self._offset, self._jumped_at = offset, None
        return steady + self._offset
