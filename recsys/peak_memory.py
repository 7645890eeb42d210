"""How much memory this process has needed."""

from __future__ import annotations

import resource
import sys


def peak_memory_mb() -> int:
    """The most MiB of this process that were resident at one time, since it began. Processes that it started are not
    counted; on Linux, what started it is: a command that a large program runs begins with that one's peak.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
