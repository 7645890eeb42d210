"""A real PostgreSQL for the tests: the one that RECSYS_TEST_POSTGRES names, or one started from installed programs."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

VARIABLE = "RECSYS_TEST_POSTGRES"
_PROGRAMS = "/usr/lib/postgresql"
_USER = "postgres"


@dataclass
class Server:
    """A server of our own on a free port of this machine; it can be stopped and started."""

    programs: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c shared_buffers=32MB"
        self._control("start", "-w", "-t", "60", "-o", options, "-l", str(self.folder / "log"))

    def stop(self) -> None:
        self._control("stop", "-m", "fast", "-w", "-t", "60")

    def _control(self, *arguments: str) -> None:
        _as_server(self.folder, [self.programs / "pg_ctl", "-D", self.folder / "data", *arguments])


def url_of(database: str, url: str) -> str:
    """The URL of another database of the same server."""
    return f"{url.rpartition('/')[0]}/{database}"


@contextmanager
def new_database(url: str) -> Iterator[str]:
    """The URL of an empty database, dropped at the end."""
    name = f"shelftalk_test_{os.getpid()}_{time.monotonic_ns()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield url_of(name, url)
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def running_server() -> Iterator[str]:
    """The URL of a server's maintenance database; skips the test, saying why, where there can be none."""
    given = os.environ.get(VARIABLE)
    if given:
        yield given
        return
    with own_server() as server:
        yield server.url


@contextmanager
def own_server() -> Iterator[Server]:
    """A server that nobody else uses; skips the test where its programs are not installed."""
    programs = sorted(Path(_PROGRAMS).glob("*/bin/initdb"))
    if not programs:
        pytest.skip(f"no PostgreSQL: {VARIABLE} is not set, and {_PROGRAMS}/*/bin has no initdb")
    folder = Path(tempfile.mkdtemp(prefix="shelftalk-pg-", dir="/tmp"))
    server = Server(programs[-1].parent, folder, _free_port())
    try:
        if os.geteuid() == 0:
            account = pwd.getpwnam(_USER)
            os.chown(folder, account.pw_uid, account.pw_gid)
        _as_server(folder, [server.programs / "initdb", "-D", folder / "data", "-U", _USER, "-A", "trust", "--no-sync"])
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _as_server(folder: Path, command: Sequence[Any]) -> None:
    """Run as the user `postgres` where we are root, which PostgreSQL refuses to run as."""
    prefix = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
    words = [*prefix, *map(str, command)]
    with (folder.parent / f"{folder.name}.out").open("wb+") as said:
        done = subprocess.run(words, cwd="/", stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False)
        said.seek(0)
        text = said.read().decode(errors="replace")
    Path(said.name).unlink()
    assert done.returncode == 0, f"{' '.join(words)}: {text}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
