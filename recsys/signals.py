"""What a signal's handler raises, where it was raised amid a call of compiled code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrapped_signals() -> Iterator[None]:
    """SystemExit and KeyboardInterrupt as they were raised: numba's dispatcher says SystemError where one of them
    leaves a call that it has begun, and to everybody else that is a failure like any other.
    """
    try:
        yield
    except SystemError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (SystemExit, KeyboardInterrupt)):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
