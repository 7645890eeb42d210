"""Waiting for another thread or process: as long as a loaded machine may need, and no longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

WITHIN = 10.0
"""Seconds at most; what is waited for takes a fraction of one."""


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it holds, now or soon."""
    end = time.monotonic() + WITHIN
    while not holds():
        if time.monotonic() >= end:
            return False
        time.sleep(0.01)
    return True
