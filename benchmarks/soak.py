"""A service under steady load for a while: `python benchmarks/soak.py [--bundle bundles] [--seconds 600] [--rate 50]`.

`recsys serve` with two workers answers `--rate` requests a second: lists for users and guests, events and new items,
and once a minute (`--swap`) another version is promoted under it. Any answer but 200 is an error. Memory is the
proportional set size of all its processes; it may grow while caches fill, but not from the second third of the time to
the last by more than `--growth` MiB. It ends by itself, with 1 where anything is wrong. Loopback only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import numpy as np

from recommend_latency import Memory, service
from recsys import ShelftalkError, load_recommender
from recsys.bundle import current_version, promote
from recsys.manifest import read_manifest, write_manifest
from recsys.threads import limit_threads

SAMPLE_SECONDS = 5.0
EVENTS, ITEMS, GUESTS = 0.2, 0.01, 0.2
"""Shares of the requests."""


@dataclass
class Told:
    """What came back, from all threads."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, seconds: float, error: str | None) -> None:
        with self.lock:
            self.seconds.setdefault(kind, []).append(seconds)
            if error:
                self.errors[f"{kind}: {error}"] += 1


class Caller:
    """Makes the requests, with one kept-alive connection a thread."""

    def __init__(self, port: int, users: list[str], items: list[str], told: Told) -> None:
        self._port, self._users, self._items, self._told = port, users, items, told
        self._own = threading.local()

    def one(self, number: int, due: float) -> None:
        rng = np.random.default_rng(number)
        kind, method, path, body = self._request(number, rng)
        time.sleep(max(0.0, due - time.perf_counter()))
        try:
            status, text = self._ask(method, path, body)
            error = None if status == 200 else f"{status} {text[:120]!r}"
        except (OSError, http.client.HTTPException) as problem:
            self._own.connection = None
            error = repr(problem)
        self._told.add(kind, time.perf_counter() - due, error)

    def _request(self, number: int, rng: np.random.Generator) -> tuple[str, str, str, bytes | None]:
        user, item, place = str(rng.choice(self._users)), str(rng.choice(self._items)), rng.random()
        if place < ITEMS:
            title = f"{item} again, number {number}"
            return "item", "PUT", f"/items/soak-{number % 200}", json.dumps({"title": title}).encode()
        if place < ITEMS + EVENTS:
            return "event", "POST", "/events", json.dumps({"user_id": user, "item_id": item}).encode()
        if place < ITEMS + EVENTS + GUESTS:
            return "guest", "GET", f"/recommend?{urlencode({'recent': item})}", None
        return "user", "GET", f"/recommend?user={quote(user)}", None

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        if getattr(self._own, "connection", None) is None:
            self._own.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        self._own.connection.request(method, path, body)
        answer = self._own.connection.getresponse()
        return answer.status, answer.read()


def two_versions(source: Path, root: Path) -> list[str]:
    """The promoted version of `source` twice in the new folder `root`, so that there is something to swap."""
    version = current_version(source)
    if version is None:
        sys.exit(f"soak: {source} has no promoted version")
    names = [version, f"{version[:-4]}{int(version[-4:], 16) ^ 1:04x}"]
    for name in names:
        shutil.copytree(source / version, root / name)
        write_manifest(root / name, read_manifest(root / name) | {"version": name})
    promote(root, names[0])
    return names


def soak(bundle: Path, rate: float, seconds: float, swap: float) -> tuple[Told, list[float], int]:
    """What came back, the memory every few seconds (MiB), and how often another version was promoted."""
    with limit_threads(1):
        model = load_recommender(bundle).model
    told, memory, swaps = Told(), [], 0
    users, items = model.users.ids.tolist(), model.catalogue.items.ids.tolist()
    del model
    with tempfile.TemporaryDirectory(prefix="recsys-soak-") as folder:
        versions = two_versions(bundle, Path(folder))
        with service(Path(folder), workers=2) as (pid, port), ThreadPoolExecutor(16) as pool:
            caller, started = Caller(port, users, items, told), time.perf_counter()
            asked, next_swap = 0, swap
            while (passed := time.perf_counter() - started) < seconds:
                until = min(seconds, passed + SAMPLE_SECONDS)
                numbers = range(asked, round(until * rate))
                list(pool.map(caller.one, numbers, [started + number / rate for number in numbers]))
                asked = numbers.stop
                memory.append(Memory.of(pid).pss)
                if passed >= next_swap:
                    swaps += 1
                    promote(Path(folder), versions[swaps % 2])
                    next_swap += swap
    return told, memory, swaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles"))
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second, 1 to 1,000")
    parser.add_argument("--seconds", type=float, default=600.0, help="30 to 3,600")
    parser.add_argument("--swap", type=float, default=60.0, help="seconds between two promotions")
    parser.add_argument("--growth", type=float, default=60.0, help="MiB by which memory may grow after warm-up")
    arguments = parser.parse_args()
    if not (1 <= arguments.rate <= 1000 and 30 <= arguments.seconds <= 3600):
        parser.error("--rate must be between 1 and 1000, --seconds between 30 and 3600")
    try:
        told, memory, swaps = soak(arguments.bundle, arguments.rate, arguments.seconds, arguments.swap)
    except ShelftalkError as error:
        sys.exit(f"soak: {error}")
    for kind, taken in sorted(told.seconds.items()):
        p50, p99 = np.quantile(np.array(taken) * 1000, [0.5, 0.99])
        print(f"{kind:8s} {len(taken):7d} requests  p50 {p50:7.1f} ms  p99 {p99:7.1f} ms")
    third = max(1, len(memory) // 3)
    before, after = float(np.median(memory[third : 2 * third])), float(np.median(memory[-third:]))
    print("PSS of all processes in MiB:", *(round(size) for size in memory))
    print(f"{swaps} versions promoted; PSS of all processes {before:.0f} MiB in the middle, {after:.0f} MiB at the end")
    for error, count in told.errors.most_common(10):
        print(f"{count} x {error}")
    sys.exit(bool(told.errors) or after - before > arguments.growth)


if __name__ == "__main__":
    main()
