"""How long a `PUT /items/ID` takes, and how long until another worker has the item, by how much has happened since the
training:

    python benchmarks/item_changes.py [--bundle bundles] [--events 0 100000] [--puts 40] [--json FILE]

Two services of one worker each share a new SQLite store that holds so many events. New items with a text and a
category, and changed ones, are put by turns to the one; the other is asked about a new item until it knows it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from event_throughput import ask, quantiles, service
from recsys import ShelftalkError, load_recommender
from recsys.stores.base import Event
from recsys.stores.opening import open_store

SETTLE_SECONDS = 8.0
"""Until both services have counted all events."""
BATCH = 1000


def fill(store: str, num_events: int, items: Sequence[str], rng: random.Random) -> None:
    """Events of the last hours, of every user and item alike."""
    opened, now = open_store(store), time.time()
    try:
        for start in range(0, num_events, BATCH):
            opened.append(
                [
                    Event(f"u{rng.randrange(50_000)}", rng.choice(items), now - rng.random() * 7200, "view")
                    for _ in range(start, min(start + BATCH, num_events))
                ]
            )
    finally:
        opened.close()


def put(port: int, item_id: str, title: str) -> float:
    """Seconds of one call."""
    document = {"title": title, "description": "a ship, a storm, and a choice of words", "category": "Games"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        started = time.perf_counter()
        ask(connection, "PUT", f"/items/{quote(item_id)}", document)
        return time.perf_counter() - started


def wait_for(port: int, item_id: str) -> None:
    """Ask until the item is known."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        while True:
            connection.request("GET", f"/similar?item={item_id}&n=1")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return
            time.sleep(0.005)


def measure(bundle: Path, num_events: int, num_puts: int) -> dict[str, Any]:
    """The figures with so many events in the store."""
    rng = random.Random(0)  # noqa: S311
    items = load_recommender(bundle).model.catalogue.items.ids.tolist()
    new, changed, followed = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store = str(Path(folder) / "events.sqlite")
        fill(store, num_events, items, rng)
        with service(bundle, store, 1) as port, service(bundle, store, 1) as other:
            for one in (port, other):  # a follower begins with the first request
                with closing(http.client.HTTPConnection("127.0.0.1", one, timeout=60)) as connection:
                    ask(connection, "GET", "/recommend?user=somebody&n=1")
            time.sleep(SETTLE_SECONDS)
            for number in range(num_puts):
                started = time.perf_counter()
                new.append(put(port, f"new-{number}", f"The storm {number}"))
                wait_for(other, f"new-{number}")
                followed.append(time.perf_counter() - started)
                time.sleep(0.5)
                changed.append(put(port, rng.choice(items), f"The changed storm {number}"))
                time.sleep(0.5)
    return {"new_ms": quantiles(new), "changed_ms": quantiles(changed), "followed_ms": quantiles(followed)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles"))
    parser.add_argument("--events", type=int, nargs="+", default=[0, 100_000])
    parser.add_argument("--puts", type=int, default=40)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {}
    for num_events in given.events:
        try:
            found[num_events] = measure(given.bundle, num_events, given.puts)
        except ShelftalkError as error:
            raise SystemExit(str(error)) from None
        print(f"{num_events:,} events since the training")
        for name, values in found[num_events].items():
            print(f"  {name:12s}" + "".join(f"  {key} {value:8.2f}" for key, value in values.items()))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
