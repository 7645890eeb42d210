"""The HTTP service under gunicorn: several workers that share one loaded bundle."""

from __future__ import annotations

import errno
import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.systemd import listen_fds  # type: ignore[import-untyped]
from gunicorn.util import import_app  # type: ignore[import-untyped]

from recsys.errors import SettingsError

APPLICATION = "serve:create_app()"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
THREADS_PER_WORKER = 4
"""Enough that a slow client or a probe does not stop a worker; the work itself is CPU bound."""


class GunicornApp(BaseApplication):  # type: ignore[misc]
    """Gunicorn set up from code: the bundle is loaded once, before the workers fork, so that they share its memory."""

    def __init__(self, host: str, port: int, workers: int) -> None:
        address = f"[{host}]" if ":" in host else host
        self._options = {
            "bind": f"{address}:{port}",
            "workers": workers,
            "worker_class": "gthread",
            "threads": THREADS_PER_WORKER,
            "preload_app": True,
            "control_socket_disable": True,
            "limit_request_line": 8190,
            "child_exit": _child_exit,
            "post_worker_init": _start_following,
        }
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn."""
        for name, value in self._options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """Called by gunicorn: the WSGI application."""
        return import_app(APPLICATION)


@contextmanager
def shared_figures() -> Iterator[None]:
    """A folder through which the workers share their figures (see `recsys.monitoring`), unless the environment names
    one. It must be there before the figures are imported.
    """
    if FOLDER_VARIABLE in os.environ:
        yield
        return
    owner, folder = os.getpid(), tempfile.mkdtemp(prefix="recsys-figures-")
    os.environ[FOLDER_VARIABLE] = folder
    try:
        yield
    finally:
        if os.getpid() == owner:  # a worker leaves through here too
            del os.environ[FOLDER_VARIABLE]
            shutil.rmtree(folder, ignore_errors=True)


def _child_exit(_server: Any, worker: Any) -> None:
    from recsys.monitoring import worker_ended  # only now: see `shared_figures`

    worker_ended(worker.pid)


def _start_following(worker: Any) -> None:
    """Catch up with the event store before the first request comes."""
    worker.wsgi.extensions["shelftalk"].start()


def check_host(host: str) -> None:
    """SettingsError where the service would listen to other machines: nothing in it checks who is asking yet."""
    if not _is_loopback(host):
        raise SettingsError(
            f"--host {host}: the service does not authenticate callers, so it listens to this machine only"
            " (127.0.0.1, ::1 or localhost); put a reverse proxy that does before it to serve others"
        )


def check_port(host: str, port: int) -> None:
    """SettingsError where gunicorn could not listen: it would try for five seconds, once the bundle is loaded. Whoever
    takes the port between this look and then is still left to gunicorn.
    """
    if "GUNICORN_PID" in os.environ or listen_fds(unset_environment=False):
        return  # the socket is handed over, by the master that this one is to replace or by systemd
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(f"port {port} on {host} is in use; choose another with --port") from None
            raise SettingsError(
                f"port {port} on {host} can't be used: {error.strerror}; choose another with --port, or another --host"
            ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
