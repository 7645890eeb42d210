"""A real `recsys serve` for tests that kill it, or change what it serves."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from recsys.stores.settings import StoreSettings
from recsys.stores.sql import SqlEventStore


class Service:
    """`recsys serve` with two workers on a port of its own, which can be killed and started again. `modules` is a
    folder of Python modules that come before all others.
    """

    def __init__(self, bundle: Path, url: str, modules: Path | None = None, **settings: object) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        names = {f"RECSYS_STORE__{key.upper()}": str(value) for key, value in settings.items()}
        paths = [*([str(modules)] if modules else []), *filter(None, sys.path)]
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | names
        self._command = [
            sys.executable, "-m", "recsys", "serve", "--bundle", str(bundle), "--store", url,
            "--port", str(self.port), "--workers", "2",
        ]  # fmt: skip
        self._log = bundle.parent / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(600):
            if self.ask("GET", "/readyz")[0] == 200:
                return
            time.sleep(0.1)
        raise AssertionError(f"the service did not start: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Master and workers at once, as a machine that is switched off does."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def workers(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        """(status, document); (0, {}) where no answer came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        finally:
            connection.close()


def stored_ids(url: str) -> list[str]:
    """The ids of all events in the store, in the order in which they came."""
    found, after = [], 0
    with closing(SqlEventStore.open(url, StoreSettings(max_history=10**9))) as store:
        while (changes := store.changes(after)).sequence > after:
            found += [event.event_id for _, event in changes.events]
            after = changes.sequence
    return found
