"""Embeddings on disk, so that a text is never encoded twice by the same model.

A folder per model holds segments: one `.npy` each (no pickle) of (key, vector) records, written to a temporary name
and moved into place. Segments are only added, never changed, so any number of processes may read and write at once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
KEY_BYTES = 16
_MERGE_ABOVE = 32

log = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """`shelftalk/embeddings` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "shelftalk" / "embeddings"


def text_key(text: str) -> bytes:
    """The key of a text: 16 bytes of its BLAKE2b hash."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=KEY_BYTES).digest()


@dataclass(frozen=True)
class EmbeddingCache:
    """Embeddings of one model (and one way of reading texts) below `root`; `max_bytes` bounds all models together."""

    root: Path
    model_key: str
    embedding_size: int
    max_bytes: int = 2 * 2**30

    @property
    def folder(self) -> Path:
        """This model's own folder."""
        return self.root / self.model_key

    def find(self, keys: Sequence[bytes]) -> tuple[npt.NDArray[np.bool_], F32]:
        """Which keys are known, (n,), and their embeddings (n, embedding_size) float32, zero where unknown.

        A segment that can't be read, or a vector that is not of unit length, is left out with a warning.
        """
        found = np.zeros(len(keys), bool)
        vectors = np.zeros((len(keys), self.embedding_size), np.float32)
        wanted: dict[bytes, int] = {key: row for row, key in enumerate(keys)}
        for path in self._segments():
            records = self._read(path)
            if records is None:
                continue
            hits = [(wanted[key], n) for n, key in enumerate(_as_bytes(records["key"])) if key in wanted]
            if hits:
                rows, places = (np.array(part) for part in zip(*hits, strict=True))
                found[rows], vectors[rows] = True, records["vector"][places]
        return self._only_unit(found, vectors)

    def add(self, keys: Sequence[bytes], vectors: F32) -> None:
        """Keep the embeddings (n, embedding_size) of `keys`; a disk that can't be written to costs a warning, no
        more.
        """
        if not len(keys):
            return
        records = np.empty(len(keys), self._record)
        records["key"] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        records["vector"] = vectors
        try:
            self._write(records)
            self._merge()
            self._prune()
        except OSError as error:
            log.warning("embedding cache %s can't be written (%s); the texts will be encoded again", self.folder, error)

    @property
    def _record(self) -> np.dtype[np.void]:
        return np.dtype([("key", np.uint8, (KEY_BYTES,)), ("vector", np.float32, (self.embedding_size,))])

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob("*.npy")) if self.folder.is_dir() else []

    def _read(self, path: Path) -> npt.NDArray[np.void] | None:
        try:
            records: npt.NDArray[np.void] = np.load(path, allow_pickle=False)
        except FileNotFoundError:  # another process merged or pruned it meanwhile: its texts count as unknown
            return None
        except (OSError, ValueError, EOFError) as error:
            log.warning("embedding cache file %s is damaged (%s); removed, its texts are encoded again", path, error)
            _remove(path)
            return None
        if records.dtype != self._record or records.ndim != 1:
            log.warning("embedding cache file %s holds %s, not %s; removed", path, records.dtype, self._record)
            _remove(path)
            return None
        return records

    def _only_unit(self, found: npt.NDArray[np.bool_], vectors: F32) -> tuple[npt.NDArray[np.bool_], F32]:
        good = np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1.0) < 1e-3
        damaged = found & ~good
        if damaged.any():
            log.warning("embedding cache %s: %d damaged vectors; they are encoded again", self.folder, damaged.sum())
        vectors[~(found & good)] = 0.0
        return found & good, vectors

    def _write(self, records: npt.NDArray[np.void]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        temporary = self.folder / f"{name}.tmp"
        with temporary.open("wb") as file:
            np.save(file, records, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / f"{name}.npy")

    def _merge(self) -> None:
        """Many small segments become one; what another process adds meanwhile stays beside it."""
        paths = self._segments()
        if len(paths) <= _MERGE_ABOVE:
            return
        parts = [records for path in paths if (records := self._read(path)) is not None]
        if parts:
            records = np.concatenate(parts)
            _, newest = np.unique(records["key"][::-1], axis=0, return_index=True)
            self._write(records[len(records) - 1 - newest])
        for path in paths:
            _remove(path)

    def _prune(self) -> None:
        """Remove the oldest segments of any model until `max_bytes` are kept."""
        sizes = sorted((s.st_mtime, s.st_size, p) for p in self.root.glob("*/*.npy") if (s := _stat(p)) is not None)
        excess = sum(size for _, size, _ in sizes) - self.max_bytes
        for _, size, path in sizes:
            if excess <= 0:
                return
            _remove(path)
            excess -= size


def _as_bytes(keys: npt.NDArray[np.uint8]) -> list[bytes]:
    flat = keys.tobytes()
    return [flat[start : start + KEY_BYTES] for start in range(0, len(flat), KEY_BYTES)]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("embedding cache file %s can't be removed: %s", path, error)
