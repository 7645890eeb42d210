"""Loops that numpy has no word for, compiled by numba."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba.core.caching import FunctionCache

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=np.generic)
logger = logging.getLogger(__name__)


class _Kept(FunctionCache):
    """Numba's files of compiled functions, without which one can do: a damaged one, or a full disk, costs the time to
    compile again and nothing else.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001  (whatever unpickling a damaged file raises)
            logger.warning("compiling again, because what was kept can't be read: %s: %r", self.cache_path, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001  (whatever reading the index beside it raises, or writing)
            logger.warning("what was compiled is not kept for other processes: %s: %r", self.cache_path, error)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function` as machine code, for each set of argument types when it first comes. It holds no lock while it runs,
    and is kept on the disk for other processes where numba finds a folder that it may write to.
    """
    made: Any = numba.njit(nogil=True)(function)
    with suppress(RuntimeError):  # numba's word for: no such folder
        made._cache = _Kept(function)  # type: ignore[no-untyped-call]  # noqa: SLF001  (as `cache=True` does)
    result: Callable[P, R] = made
    return result


def fixed(array: npt.NDArray[S]) -> npt.NDArray[S]:
    """`array`, contiguous and read-only: to numba an array that may be written to, or has another layout, is of another
    type, which would be compiled for amid a request.
    """
    if array.flags.c_contiguous and not array.flags.writeable:
        return array
    out = np.ascontiguousarray(array).view()
    out.flags.writeable = False
    return out
