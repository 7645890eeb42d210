"""`recsys serve` under load: `python benchmarks/service_load.py --bundle FOLDER [--rate 30] [--seconds 30]`.

Requests for random users come at fixed times whether or not earlier ones have been answered (an open loop: a closed
one would wait while the service is slow and not count it), then as fast as two clients can ask. Each worker's memory
is read from the kernel. Loopback only; it ends by itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from recommend_latency import Client, Memory, Row, get, service
from recsys import Request, ShelftalkError, load_recommender
from recsys.threads import limit_threads

LIST_LENGTH = 10
WARM_UP = 50
CLIENTS = 2
_AWAKE = 0.0005
"""Seconds before it is due that a client is awake: a sleep ends a fifth of a millisecond late."""


def open_loop(client: Client, requests: list[Request], rate: float) -> Row:
    """One request each 1 / `rate` seconds; a request's time runs from when it was due."""
    started = time.perf_counter() + 0.1

    def one(number: int) -> float:
        due = started + number / rate
        time.sleep(max(0.0, due - _AWAKE - time.perf_counter()))
        while time.perf_counter() < due:
            pass
        client.ask(requests[number])
        return time.perf_counter() - due

    with ThreadPoolExecutor(8) as pool:
        seconds = list(pool.map(one, range(len(requests))))
    return Row.of("HTTP", f"{rate:g} requests/s", seconds, time.perf_counter() - started)


def closed_loop(client: Client, requests: list[Request], clients: int) -> Row:
    """As fast as `clients` can ask one after the other."""

    def one(request: Request) -> float:
        started = time.perf_counter()
        client.ask(request)
        return time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(one, requests))
    return Row.of("HTTP", f"saturated, {clients} clients", seconds, time.perf_counter() - started)


def measure(bundle: Path, rate: float, seconds: float) -> dict[str, Any]:
    """All rows and the memory of one and of two workers, in JSON's own types."""
    with limit_threads(1):
        model = load_recommender(bundle).model
        rng = np.random.default_rng(0)
        users = rng.choice(model.users.ids, round(rate * seconds)).tolist()
    requests = [Request(user=user, n=LIST_LENGTH) for user in users]
    rows = []
    with service(bundle) as (pid, port):
        client = Client(port)
        for request in requests[:WARM_UP]:
            client.ask(request)
        rows.append(open_loop(client, requests, rate))
        rows.append(closed_loop(client, requests, CLIENTS))
        one = Memory.of(pid)
    with service(bundle, workers=2) as (pid, port):
        _ask_both_workers(port, requests[: 20 * WARM_UP])
        two = Memory.of(pid)
    return {
        "items": len(model.catalogue),
        "users": len(model.users),
        "events": len(model.histories.item_rows),
        "rows": [vars(row) for row in rows],
        "pss_mib": {"one worker": one.pss, "two workers": two.pss, "second worker": round(two.pss - one.pss, 1)},
        "python": platform.python_version(),
    }


def _ask_both_workers(port: int, requests: list[Request]) -> None:
    """A connection each, because a kept-alive one stays with its worker."""
    for request in requests:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        get(connection, f"/recommend?{urlencode({'user': request.user, 'n': request.n})}")
        connection.close()


def table(found: dict[str, Any]) -> str:
    """The measurement as plain text."""
    lines = [f"{found['items']:,} items, {found['users']:,} users, {found['events']:,} stored events"]
    lines.append(f"{'case':24s} {'requests':>8s} {'p50 ms':>8s} {'p90 ms':>8s} {'p99 ms':>8s} {'per s':>8s}")
    for row in found["rows"]:
        times = f"{row['p50']:8.2f} {row['p90']:8.2f} {row['p99']:8.2f} {row['per_second']:8.1f}"
        lines.append(f"{row['case']:24s} {row['requests']:8d} {times}")
    lines += [f"PSS {name}: {size:.0f} MiB" for name, size in found["pss_mib"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles"), help="folder of model versions")
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second, 1 to 1,000")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long, 1 to 600")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    if not (1 <= arguments.rate <= 1000 and 1 <= arguments.seconds <= 600):
        parser.error("--rate must be between 1 and 1000, --seconds between 1 and 600")
    try:
        found = measure(arguments.bundle, arguments.rate, arguments.seconds)
    except ShelftalkError as error:
        sys.exit(f"service_load: {error}")
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
