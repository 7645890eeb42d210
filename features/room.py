"""Room: large arrays with spare rows behind them, so that a new item's row is written and nothing is copied.

A bundle's arrays are mapped from files, and all workers of a machine share that memory. To append to one, its file is
mapped once more, privately, at the beginning of a larger region: rows that were there stay shared with the other
workers until they are changed (a page of 4 KiB at a time), new ones come right behind them. Only the address space is
reserved; memory is taken where rows are written. An array that is not mapped is copied once.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
MIN_SPARE = 16_384
"""Rows of room at least; with less than that left over, the room doubles."""
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_FIXED = 0x10


@dataclass(frozen=True)
class _Origin:
    """The file that an array is mapped from; `key` says which file it is whatever its name."""

    path: Path
    offset: int
    num_rows: int
    key: tuple[int, int, int]


@dataclass(eq=False)
class _Buffer:
    """`full` (capacity, ...): the first `used` rows belong to some array. `changed`: rows of the file that differ from
    it.
    """

    full: Array
    used: int
    origin: _Origin | None
    changed: set[int] = field(default_factory=set)

    def view(self, n: int) -> Array:
        """The first rows, read-only."""
        out = self.full[:n]
        out.flags.writeable = False
        return out


class Room:
    """Makes longer and changed arrays out of arrays; one that it has handed out never changes. For one thread at a
    time.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, _Buffer] = {}
        self._adopted: dict[Any, _Buffer] = {}

    def adopted(self, array: Array) -> Array:
        """An equal array that has room: the same one for arrays that are mapped from one file."""
        if _address(array) in self._buffers:
            return array
        origin = _origin(array)
        key = origin.key if origin else _address(array)
        if key not in self._adopted:
            self._adopted[key] = self._fresh(array, len(array), origin, set())
        return self._adopted[key].view(len(array))

    def extended(self, array: Array, rows: Array) -> Array:
        """`array`, adopted before, with `rows` behind it."""
        buffer, n = self._of(array), len(array)
        stop = n + len(rows)
        if buffer.used != n or stop > len(buffer.full):
            buffer = self._copied(buffer, array, stop)
        buffer.full[n:stop] = rows
        buffer.used = stop
        return buffer.view(stop)

    def changed(self, array: Array, rows: Ints, values: Array) -> Array:
        """`array`, adopted before, with other `values` at some `rows`; whoever holds `array` sees nothing of it."""
        buffer = self._copied(self._of(array), array, len(array))
        buffer.full[rows] = values
        buffer.changed |= set(rows.tolist())
        return buffer.view(len(array))

    def _of(self, array: Array) -> _Buffer:
        """The array's buffer; a new one for an array whose buffer was given up when a newer array took its place."""
        known = self._buffers.get(_address(array))
        return known or self._fresh(array, len(array), None, set())

    def _copied(self, old: _Buffer, array: Array, num_rows: int) -> _Buffer:
        buffer = self._fresh(array, num_rows, old.origin, old.changed)
        buffer.used = len(array)
        if old not in self._adopted.values():
            self._buffers.pop(_address(old.full), None)
        return buffer

    def _fresh(self, array: Array, num_rows: int, origin: _Origin | None, changed: set[int]) -> _Buffer:
        """A buffer that begins with `array`; of a mapped file's rows only those that were changed are copied."""
        shape = (num_rows + max(MIN_SPARE, num_rows), *array.shape[1:])
        full = _mapped(origin, shape, array.dtype) if origin else None
        if full is None or origin is None:
            origin, full = None, np.zeros(shape, array.dtype)
            full[: len(array)] = array
        else:
            full[origin.num_rows : len(array)] = array[origin.num_rows :]
            own = np.array(sorted(changed), np.int64)
            own = own[own < origin.num_rows]
            full[own] = array[own]
        buffer = _Buffer(full, len(array), origin, set(changed))
        self._buffers[_address(full)] = buffer
        return buffer


def _address(array: Array) -> int:
    return int(array.ctypes.data)


def _origin(array: Array) -> _Origin | None:
    """The file that the whole of `array` is mapped from; None where it isn't, or where that file is gone."""
    base = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        if base.base is None:
            return None
        base = base.base
    if not isinstance(base, np.memmap) or base.filename is None or not array.flags.c_contiguous or not array.size:
        return None
    if sys.platform != "linux" or _address(base) != _address(array) or base.nbytes != array.nbytes:
        return None
    path = Path(base.filename)
    try:
        facts = path.stat()
    except OSError:
        return None
    return _Origin(path, base.offset, len(array), (facts.st_dev, facts.st_ino, base.offset))


def _mapped(origin: _Origin, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """An array of `shape` that begins with the file's rows, privately mapped, zeros behind; None where that fails."""
    try:
        file = os.open(origin.path, os.O_RDONLY)
    except OSError:
        return None
    try:
        facts = os.fstat(file)
        if (facts.st_dev, facts.st_ino) != origin.key[:2]:
            return None
        size = origin.offset + int(np.prod(shape)) * dtype.itemsize
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        region = mmap.mmap(-1, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(region))
        _map_file(start, facts.st_size, file)
    except OSError:
        return None
    finally:
        os.close(file)
    return np.frombuffer(region, dtype, int(np.prod(shape)), origin.offset).reshape(shape)


def _map_file(address: int, size: int, file: int) -> None:
    """Map the file over the pages at `address`, which are the caller's own; OSError where it can't be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if libc.mmap(address, size, protection, mmap.MAP_PRIVATE | _FIXED, file, 0) != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
