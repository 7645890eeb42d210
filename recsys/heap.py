"""How the C library keeps memory that was given back."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2**20


def return_large_arrays() -> None:
    """Let arrays of a megabyte or more go back to the system when they are freed. glibc would come to keep up to 32 MB
    of such blocks a thread, and a service that makes a model for every item put would hold a hundred megabytes that
    nobody uses. Without glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
