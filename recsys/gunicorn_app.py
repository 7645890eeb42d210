"""The HTTP service under gunicorn: several workers that share one loaded bundle."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.util import import_app  # type: ignore[import-untyped]

from recsys.errors import SettingsError

APPLICATION = "serve:create_app()"
API_KEYS = "RECSYS_API_KEYS"
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


def check_host(host: str, environment: Mapping[str, str] | None = None) -> None:
    """SettingsError where the service would listen to other machines without any API key."""
    keys = (os.environ if environment is None else environment).get(API_KEYS, "").strip()
    if not keys and not _is_loopback(host):
        raise SettingsError(
            f"--host {host}: without keys the service listens to this machine only (127.0.0.1, ::1 or localhost);"
            f" set {API_KEYS} to serve others"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
