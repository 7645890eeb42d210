"""How a list is to be shaped, as values: diversity, caps and exploration, and how they are written in a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recsys.errors import RequestError

ExplorationKind = Literal["none", "epsilon", "softmax"]
KINDS: tuple[ExplorationKind, ...] = ("none", "epsilon", "softmax")


@dataclass(frozen=True)
class Cap:
    """At most `most` items that share a value of `column` within the first `first` places (None: all places)."""

    column: str
    most: int
    first: int | None = None


@dataclass(frozen=True)
class Exploration:
    """`epsilon`: with this probability any of the candidates instead of the best one. `softmax`: `amount` is the
    temperature (Plackett-Luce over exp(value / temperature), see `recsys.shaping`).
    """

    kind: ExplorationKind = "none"
    amount: float = 0.0


def parse_cap(text: str) -> Cap:
    """From `column:most` or `column:most/first`; RequestError for anything else."""
    column, colon, numbers = text.rpartition(":")
    most, slash, first = numbers.partition("/")
    if not (column and colon and _is_count(most) and (_is_count(first) or not slash)):
        raise RequestError(
            "cap", f"cap={text[:80]!r}: expected column:most or column:most/first, such as cap=category:2"
        )
    return Cap(column, int(most), int(first) if slash else None)


def parse_exploration(text: str) -> Exploration:
    """From `none`, `epsilon:0.1` or `softmax:0.1`; RequestError for anything else."""
    kind, _, number = text.partition(":")
    for known in KINDS:
        if kind == known:
            return checked_exploration(known, _amount(number, text))
    raise RequestError("exploration", f"exploration={text[:80]!r}: expected none, epsilon:0.1 or softmax:0.1")


def checked_exploration(kind: ExplorationKind, amount: float) -> Exploration:
    """RequestError where the amount has no meaning for the kind."""
    if kind == "epsilon" and not 0 <= amount <= 1:
        raise RequestError("exploration", f"exploration: epsilon is a probability, 0 to 1, but is {amount}")
    if kind == "softmax" and not 0.001 <= amount <= 1000:
        raise RequestError("exploration", f"exploration: a temperature is between 0.001 and 1000, but is {amount}")
    return Exploration(kind, amount) if kind != "none" else Exploration()


def parse_caps(texts: Sequence[str]) -> tuple[Cap, ...]:
    """Several caps."""
    return tuple(parse_cap(text) for text in texts)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) <= 6 and int(text) > 0


def _amount(number: str, text: str) -> float:
    try:
        return float(number or 0)
    except ValueError:
        raise RequestError(
            "exploration",
            f"exploration={text[:80]!r}: {number[:40]!r} is no number; expected epsilon:0.1 or softmax:0.1",
        ) from None
