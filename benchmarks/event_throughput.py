"""How many durable events a second `POST /events` takes, and how long it is from a click to the changed answer:

    python benchmarks/event_throughput.py [--bundle bundles] [--store URL] [--batches 400] [--json FILE]

`recsys serve` with `--workers` workers over a new SQLite file (or `--store`, which is filled with events of its own) is
sent batches of 100 events by four clients over loopback. Then one client sends a click and asks for the list that must
know it, 300 times.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recsys import ShelftalkError, load_recommender

BATCH = 100
CLIENTS = 4
CLICKS = 300
START_SECONDS = 120


@contextmanager
def service(bundle: Path, store: str, workers: int) -> Iterator[int]:
    """The port of a service that is ready."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ["--bundle", str(bundle), "--store", store, "--port", str(port), "--workers", str(workers)]
    command = [sys.executable, "-m", "recsys", "serve", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"recsys serve --bundle {bundle} --store {store} did not start")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def ready(port: int) -> bool:
    """Whether the service answers."""
    try:
        return bool(ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/readyz"))
    except OSError:
        return False


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> dict[str, Any]:
    """The document of an answer, which has to be 200."""
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{method} {path}: {answer.status} {content.decode()[:200]}")
    return dict(json.loads(content))


def send(port: int, batches: Sequence[list[dict[str, Any]]]) -> list[float]:
    """Seconds of each batch, all of which must be accepted."""
    seconds = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for batch in batches:
            started = time.perf_counter()
            if ask(connection, "POST", "/events", batch)["accepted"] != len(batch):
                raise SystemExit("some events were not accepted; give an empty store")
            seconds.append(time.perf_counter() - started)
    return seconds


def click(port: int, items: Sequence[str], rng: random.Random, run: str) -> list[float]:
    """Seconds from a visitor's click to the list that leaves the item out."""
    seconds = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for number in range(CLICKS):
            event = {"user_id": f"{run}-visitor-{number}", "item_id": rng.choice(items)}
            started = time.perf_counter()
            ask(connection, "POST", "/events", event)
            listed = ask(connection, "GET", f"/recommend?user={event['user_id']}&n=10")
            seconds.append(time.perf_counter() - started)
            if listed.get("degraded") or event["item_id"] in [item["item_id"] for item in listed["items"]]:
                raise SystemExit("the list does not know the click")
    return seconds


def measure(bundle: Path, store: str, num_batches: int, workers: int) -> dict[str, Any]:
    """The figures of one run."""
    rng = random.Random(0)  # noqa: S311
    run = f"{os.getpid()}-{time.time_ns()}"
    items = load_recommender(bundle).model.catalogue.items.ids.tolist()
    now = time.time()
    per_client = [
        [
            [
                {"user_id": f"u{rng.randrange(50_000)}", "item_id": rng.choice(items), "event": "view",
                 "timestamp": now - rng.random() * 3600, "event_id": f"{run}-{client}-{batch}-{k}"}
                for k in range(BATCH)
            ]
            for batch in range(num_batches // CLIENTS)
        ]
        for client in range(CLIENTS)
    ]  # fmt: skip
    with service(bundle, store, workers) as port, ThreadPoolExecutor(CLIENTS) as pool:
        started = time.perf_counter()
        batches = [s for found in pool.map(lambda part: send(port, part), per_client) for s in found]
        wall = time.perf_counter() - started
        clicks = click(port, items, rng, run)
    return {
        "events_per_second": round(len(batches) * BATCH / wall),
        "batch_ms": quantiles(batches),
        "click_to_answer_ms": quantiles(clicks),
    }


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds."""
    values = np.quantile(np.array(seconds) * 1000, [0.5, 0.9, 0.99])
    return dict(zip(("p50", "p90", "p99"), np.round(values, 2).tolist(), strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles"))
    parser.add_argument("--store", help="Default: a new SQLite file.")
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = given.store or str(Path(folder) / "events.sqlite")
        try:
            found = measure(given.bundle, store, given.batches, given.workers)
        except ShelftalkError as error:
            raise SystemExit(str(error)) from None
    print(f"{found['events_per_second']} durable events/s in batches of {BATCH}")
    for name in ("batch_ms", "click_to_answer_ms"):
        print(f"{name:20s}" + "".join(f"  {key} {value:8.2f}" for key, value in found[name].items()))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
