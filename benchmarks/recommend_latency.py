"""How long one list takes, in process and over HTTP, and how much memory that needs: `make bench`, or

    python benchmarks/recommend_latency.py [--bundle bundles] [--requests 300] [--json FILE]

One recommender on one thread answers `--requests` requests of each case, one after the other, after a warm-up. Then
`recsys serve` with one worker answers the same ones over loopback. See README.md for what the numbers mean.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from recsys.threads import limit_threads

limit_threads(1)  # before numpy is imported: as in service

import numpy as np  # noqa: E402
import pycurl  # noqa: E402

from recsys import Recommender, Request, ShelftalkError, load_recommender  # noqa: E402

WARM_UP = 20
CLIENTS = 4
START_SECONDS = 120
LIST_LENGTH = 10
KNOWN = "known user"


@dataclass(frozen=True)
class Row:
    """One line of the table; times in milliseconds."""

    path: str
    case: str
    requests: int
    p50: float
    p90: float
    p99: float
    per_second: float

    @classmethod
    def of(cls, path: str, case: str, seconds: Sequence[float], wall: float) -> Row:
        p50, p90, p99 = np.quantile(np.array(seconds) * 1000, [0.5, 0.9, 0.99])
        return cls(path, case, len(seconds), round(p50, 2), round(p90, 2), round(p99, 2), round(len(seconds) / wall, 1))


@dataclass(frozen=True)
class Memory:
    """Resident and proportional set size in MiB of a process and its children; PSS counts shared pages once."""

    rss: float
    pss: float

    @classmethod
    def of(cls, pid: int) -> Memory:
        sizes = [_rollup(each) for each in _family(pid)]
        return cls(*(round(sum(size[key] for size in sizes) / 1024, 1) for key in ("Rss", "Pss")))


def cases(recommender: Recommender, num_requests: int) -> dict[str, list[Request]]:
    """The requests of each case: users and clicked items drawn at random with a fixed seed."""
    rng = np.random.default_rng(0)
    users = rng.choice(recommender.model.users.ids, num_requests).tolist()
    clicks = rng.choice(recommender.model.catalogue.items.ids, num_requests).tolist()
    return {
        KNOWN: [Request(user=user, n=LIST_LENGTH) for user in users],
        "known user and a click": [
            Request(user=user, recent=(item,), n=LIST_LENGTH) for user, item in zip(users, clicks, strict=True)
        ],
        "guest with a click": [Request(recent=(item,), n=LIST_LENGTH) for item in clicks],
        "guest": [Request(n=LIST_LENGTH)] * num_requests,
    }


def timed(path: str, case: str, ask: Callable[[Request], object], requests: Sequence[Request], clients: int = 1) -> Row:
    """Ask all of them, `clients` at a time."""

    def one(request: Request) -> float:
        started = time.perf_counter()
        ask(request)
        return time.perf_counter() - started

    for request in requests[:WARM_UP]:
        ask(request)
    started = time.perf_counter()
    if clients == 1:
        seconds = [one(request) for request in requests]
    else:
        with ThreadPoolExecutor(clients) as pool:
            seconds = list(pool.map(one, requests))
    return Row.of(path, case, seconds, time.perf_counter() - started)


@contextmanager
def service(bundle: Path, workers: int = 1) -> Iterator[tuple[int, int]]:
    """`recsys serve` on a free loopback port, once it is ready: (process id, port)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "recsys", "serve", "--bundle", str(bundle), "--port", str(port)]
    command += ["--workers", str(workers)]
    # The access log would only measure the terminal.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, port)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"recommend_latency: `recsys serve` ended with {process.returncode}; run it by hand to see why")
        try:
            get(http.client.HTTPConnection("127.0.0.1", port, timeout=10), "/readyz")
        except OSError:
            time.sleep(0.2)  # not listening yet
        else:
            return
    sys.exit(f"recommend_latency: `recsys serve` was not ready after {START_SECONDS} s")


def get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    response = connection.getresponse()
    return checked(path, response.status, response.read())


def checked(path: str, status: int, body: bytes) -> bytes:
    """The body of an answer that must be 200."""
    if status != 200:
        sys.exit(f"recommend_latency: GET {path} answered {status}: {body[:300].decode(errors='replace')}")
    return body


class Client:
    """Asks over HTTP, with one kept-alive connection for each thread that asks. By libcurl: Python's own client takes
    half a millisecond, which is not the service's.
    """

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._own = threading.local()

    def ask(self, request: Request) -> bytes:
        if not hasattr(self._own, "curl"):
            self._own.curl = pycurl.Curl()
            self._own.curl.setopt(pycurl.TIMEOUT, 60)
            self._own.curl.setopt(pycurl.NOSIGNAL, 1)  # a time-out by signal is for the main thread alone
        parameters: dict[str, object] = {"n": request.n, "recent": ",".join(request.recent)}
        if request.user is not None:
            parameters["user"] = request.user
        path, body = f"/recommend?{urlencode(parameters)}", io.BytesIO()
        self._own.curl.setopt(pycurl.URL, self._base + path)
        self._own.curl.setopt(pycurl.WRITEDATA, body)
        self._own.curl.perform()
        return checked(path, self._own.curl.getinfo(pycurl.RESPONSE_CODE), body.getvalue())


def measure(bundle: Path, num_requests: int) -> dict[str, Any]:
    """All rows, the memory and what was measured, in JSON's own types."""
    started = time.perf_counter()
    recommender = load_recommender(bundle)
    load_seconds = time.perf_counter() - started
    asked = cases(recommender, num_requests)
    rows = [timed("in process", case, recommender.recommend, requests) for case, requests in asked.items()]
    memory = {"in process": Memory.of(os.getpid())}
    with service(bundle) as (pid, port):
        ask = Client(port).ask
        rows += [timed("HTTP", case, ask, requests) for case, requests in asked.items()]
        rows.append(timed("HTTP", f"{KNOWN}, {CLIENTS} clients", ask, asked[KNOWN], CLIENTS))
        memory["HTTP, one worker"] = Memory.of(pid)
    model = recommender.model
    return {
        "bundle": model.bundle_version,
        "items": len(model.catalogue),
        "users": len(model.users),
        "sources": [source.name for source in model.sources],
        "ranker": model.ranker.kind,
        "list_length": LIST_LENGTH,
        "load_seconds": round(load_seconds, 2),
        "machine": {
            "processor": _processor(),
            "cpus": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "rows": [asdict(row) for row in rows],
        "memory_mib": {name: asdict(used) for name, used in memory.items()},
    }


def table(found: dict[str, Any]) -> str:
    """The measurement as plain text."""
    lines = [f"{'path':12s} {'case':28s} {'requests':>8s} {'p50 ms':>8s} {'p90 ms':>8s} {'p99 ms':>8s} {'per s':>8s}"]
    for row in found["rows"]:
        times = f"{row['p50']:8.2f} {row['p90']:8.2f} {row['p99']:8.2f} {row['per_second']:8.1f}"
        lines.append(f"{row['path']:12s} {row['case']:28s} {row['requests']:8d} {times}")
    lines += [
        f"memory {name}: RSS {m['rss']:.0f} MiB, PSS {m['pss']:.0f} MiB" for name, m in found["memory_mib"].items()
    ]
    machine = found["machine"]
    lines.append(
        f"{found['items']:,} items, {found['users']:,} users, {found['ranker']} over {', '.join(found['sources'])}"
    )
    lines.append(
        f"lists of {found['list_length']}; bundle {found['bundle']}, verified and loaded in {found['load_seconds']} s"
    )
    lines.append(f"{machine['processor']}, {machine['cpus']} CPUs, Python {machine['python']}")
    return "\n".join(lines)


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _rollup(pid: int) -> dict[str, int]:
    """Sizes in KiB by name, as the kernel adds them up."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency and memory of one recommender.")
    parser.add_argument(
        "--bundle", type=Path, default=Path("bundles"), help="folder of model versions (default: bundles)"
    )
    parser.add_argument("--requests", type=int, default=300, help="requests of each case, 1 to 100,000")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    if not 1 <= arguments.requests <= 100_000:
        parser.error(f"--requests must be between 1 and 100000, not {arguments.requests}")
    try:
        found = measure(arguments.bundle, arguments.requests)
    except ShelftalkError as error:
        parser.error(str(error))
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
