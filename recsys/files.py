"""Files that are either whole or not there: atomic replacement, fsync, digests and locks between processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from recsys.errors import SettingsError


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_folder(path: Path) -> None:
    """SettingsError where `path` can't be written because its folder is missing or closed: before the work is done."""
    if not path.parent.is_dir():
        raise SettingsError(f"{path} can't be written: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise SettingsError(f"{path} can't be written: the folder {path.parent} is not writable; name another one")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on the (created) file `path`; BlockingIOError where another has it and `wait` is false.

    The kernel drops the lock when its holder dies, so none is ever left behind.
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that becomes `path` in one step when the block ends well, and vanishes when it doesn't.

    Its temporary name is fixed, so that what a killed process left is overwritten; BlockingIOError where another
    process is writing the same file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _own(temporary) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise
    sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Make `text` the whole content of `path`, in one step."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def _own(path: Path) -> Iterator[IO[bytes]]:
    """Open and lock an emptied file; open anew where its former owner renamed it before we had the lock."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, path):
                continue
            file.truncate(0)
            yield file
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
