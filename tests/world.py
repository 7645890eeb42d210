"""A tiny world whose right answers are known by reasoning: readers of space books and of garden books, who never
mix.

Every user walks through its own shelf in order, from a place of its own, so that what comes next is the next number
of the same shelf.
"""

from __future__ import annotations

import csv
from pathlib import Path

SHELVES = {"space": ("rocket", "orbit", "planet"), "garden": ("rose", "spade", "compost")}
ITEMS_PER_SHELF = 20
NUM_USERS = 80
EVENTS_PER_USER = 8
START = 1_600_000_000
DAY = 86_400


def item_id(shelf: str, number: int) -> str:
    """`space-03`; numbers wrap around."""
    return f"{shelf}-{number % ITEMS_PER_SHELF:02d}"


def item_rows() -> list[dict[str, str]]:
    """The catalogue as rows of text."""
    rows = []
    for shelf, words in SHELVES.items():
        for number in range(ITEMS_PER_SHELF):
            word = words[number % len(words)]
            rows.append(
                {
                    "item_id": item_id(shelf, number),
                    "title": f"{word} {shelf} {number}",
                    "description": f"a book about {shelf} and the {word}",
                    "category": f"{shelf} | {word}",
                    "brand": f"{shelf} press",
                    "price": str(5 + number),
                }
            )
    return rows


def event_rows(*, clock: bool = True, num_users: int = NUM_USERS) -> list[dict[str, str]]:
    """The events as rows of text; user u reads shelf u % 2 from number 3 u on, one book a day, users a few hours
    apart.
    """
    shelves = list(SHELVES)
    rows = []
    for user in range(num_users):
        shelf = shelves[user % len(shelves)]
        for step in range(EVENTS_PER_USER):
            row = {"user_id": f"u{user:03d}", "item_id": item_id(shelf, 3 * user + step), "event": "purchase"}
            row |= {"timestamp": str(START + step * DAY + user * 977)} if clock else {"sequence": str(step)}
            rows.append(row)
    return rows


def write_table(path: Path, rows: list[dict[str, str]], columns: list[str] | None = None) -> Path:
    """A CSV file with the rows; `columns` names them where there is no row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_world(folder: Path, *, clock: bool = True, num_users: int = NUM_USERS) -> Path:
    """The world as a data folder."""
    write_table(folder / "items.csv", item_rows())
    columns = ["user_id", "item_id", "event", "timestamp" if clock else "sequence"]
    write_table(folder / "events.csv", event_rows(clock=clock, num_users=num_users), columns)
    return folder


TINY = {
    "encoder": {"model": "none", "cache": "off"},
    "retrieval": {
        "per_source": 15,
        "linear": {"regularization": [10.0], "half_life": [2.0]},
        "linear_next": {"regularization": [10.0], "half_life": [2.0]},
        "neighbours": {"half_life": [2.0]},
        "user_neighbours": {"half_life": [2.0], "popularity": [0.3]},
        "transitions": {"half_life": [0.7]},
        "als": {"factors": 8, "iterations": 3, "alpha": [5.0], "half_life": [None]},
        "popularity": {"recent_share": [0.5]},
        "sequence": {"size": 8, "layers": 1, "epochs": 6, "max_tokens": 10, "dropout": 0.1, "checks": 1},
    },
    "lambdamart": {"num_trees": 20, "num_leaves": 7, "min_examples_per_leaf": 5},
    "threads": 1,
}
"""Settings under which training on the world takes a second or two."""
