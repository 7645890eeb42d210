"""Tensors of safetensors files, in numpy: mapped rather than read, so that all processes share their memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import EncoderError

F32 = npt.NDArray[np.float32]
_BLOCK = 2**20
"""Bytes that are compared at a time."""


def mapped_tensors(path: Path) -> dict[str, F32]:
    """The float32 tensors of a safetensors file, mapped, not read; EncoderError where it is damaged."""
    with _damage(path):
        tensors, start = _float_tensors(path)
        content = np.asarray(np.memmap(path, np.uint8, "r", offset=0))[start:]
        return {name: _tensor(content, facts) for name, facts in tensors.items()}


def different_tensors(one: Path, other: Path) -> set[str]:
    """The names of the float32 tensors that are not the same in two safetensors files, to the last bit, or are in one
    alone; EncoderError where a file is damaged. Both are read and not mapped, as pages that were mapped would count as
    memory of this process.
    """
    with _damage(one):
        mine, start = _float_tensors(one)
    with _damage(other):
        theirs, other_start = _float_tensors(other)
    differ = set(mine.keys() ^ theirs.keys())
    with one.open("rb") as file, other.open("rb") as other_file:
        for name in mine.keys() & theirs.keys():
            if mine[name]["shape"] != theirs[name]["shape"]:
                differ.add(name)
                continue
            first, last = mine[name]["data_offsets"]
            file.seek(start + first)
            other_file.seek(other_start + theirs[name]["data_offsets"][0])
            blocks = (min(_BLOCK, last - place) for place in range(first, last, _BLOCK))
            if any(file.read(size) != other_file.read(size) for size in blocks):
                differ.add(name)
    return differ


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise EncoderError(f"{path} is damaged: {error}; copy the bundle again or train anew") from None


def _float_tensors(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """What the file says of its float32 tensors, and where their numbers begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        facts = json.loads(file.read(length))
    tensors = {n: own for n, own in facts.items() if n != "__metadata__" and own["dtype"] == "F32"}
    size = path.stat().st_size - 8 - length
    for name, own in tensors.items():
        start, stop = own["data_offsets"]
        if not 0 <= start <= stop <= size or stop - start != 4 * math.prod(own["shape"]):
            raise ValueError(f"{name} of shape {own['shape']} is not in bytes {start} to {stop} of {size}")
    return tensors, 8 + length


def _tensor(content: npt.NDArray[np.uint8], facts: dict[str, Any]) -> F32:
    start, stop = facts["data_offsets"]
    return np.frombuffer(content[start:stop].data, np.float32).reshape(facts["shape"])
