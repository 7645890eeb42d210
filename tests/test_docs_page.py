"""`/docs` in a real browser that reaches nothing but this machine: every call is shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from handmade import handmade_model
from recsys.recommender import Recommender
from serve import create_app

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt install chromium)")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
"""No other host has an address."""


@pytest.fixture
def url() -> Iterator[str]:
    """The service on a port of its own."""
    server = make_server("127.0.0.1", 0, create_app(Recommender(handmade_model())), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def rendered(url: str, folder: Path) -> tuple[str, set[str]]:
    """(the page at /docs after its scripts have run, the URLs that the page asked for, whoever has them)"""
    log = folder / "network.json"
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", OFFLINE,
        f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--virtual-time-budget=20000", "--dump-dom",
        f"{url}/docs",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    steps = [step.get("params", {}) for step in json.loads(log.read_bytes())["events"]]
    return done.stdout.decode(), {step["url"] for step in steps if step.get("initiator") == url}


def test_every_call_is_shown_and_nothing_is_asked_of_others(url: str, tmp_path: Path) -> None:
    page, asked = rendered(url, tmp_path)
    with urllib.request.urlopen(f"{url}/openapi.json") as answer:  # noqa: S310  (our own service)
        paths = json.load(answer)["paths"]
    expected = sorted((method, path) for path, methods in paths.items() for method in methods)
    shown = re.findall(r'opblock-summary-method">(\w+)<.*?data-path="([^"]+)"', page, re.DOTALL)
    assert sorted((method.lower(), path) for method, path in shown) == expected
    assert len(expected) >= 15
    assert asked == {f"{url}/docs/swagger-ui.css", f"{url}/docs/swagger-ui-bundle.js", f"{url}/openapi.json"}
