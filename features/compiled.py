"""Loops that numpy has no word for, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=np.generic)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function` as machine code, for each set of argument types when it first comes. It holds no lock while it runs,
    and is kept on the disk for other processes where numba finds a folder that it may write to.
    """
    try:
        made: Callable[P, R] = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba's word for: no such folder
        made = numba.njit(nogil=True)(function)
    return made


def fixed(array: npt.NDArray[S]) -> npt.NDArray[S]:
    """`array`, contiguous and read-only: to numba an array that may be written to, or has another layout, is of another
    type, which would be compiled for amid a request.
    """
    out = np.ascontiguousarray(array).view()
    out.flags.writeable = False
    return out
