"""How many threads the numeric libraries use: the one place that says so.

A pool of spinning OpenMP threads is slower than one thread as soon as another process wants the cores, and sums that
are split over threads can round differently. So answering uses one thread a process (HTTP and batch then agree to the
bit), and training uses `settings.threads`, waiting passively.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_WAIT = "OMP_WAIT_POLICY"


def num_cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def limit_threads(n: int) -> ExitStack:
    """From now on every numeric library uses `n` threads; as a context manager, only until its end.

    Libraries not imported yet read it from the environment (which spawned processes inherit); those imported already
    are told so. Call it before anything heavy is imported: how threads wait can't be changed later.
    """
    if n < 1:
        raise ValueError(f"threads must be at least 1, not {n}")
    undo = ExitStack()
    for name, value in (*((name, str(n)) for name in _COUNTS), (_WAIT, os.environ.get(_WAIT, "PASSIVE"))):
        undo.callback(_restore, name, os.environ.get(name))
        os.environ[name] = value
    if "numpy" in sys.modules:
        apply_threads(n, undo)
    return undo


def apply_threads(n: int, undo: ExitStack | None = None) -> None:
    """Resize the pools of the libraries loaded now, torch only where it is imported; `undo` learns how to go back."""
    from threadpoolctl import threadpool_limits

    limits = threadpool_limits(limits=n)
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else n
    if torch is not None:
        torch.set_num_threads(n)
    if undo is not None:
        undo.callback(limits.restore_original_limits)
        if torch is not None:
            undo.callback(torch.set_num_threads, before)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
