"""Whose wish decides how a list is shaped: the request's, then the settings'; the rules are added to either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.tables import BoolArray, IdIndex
from recsys.attributes import Attributes
from recsys.errors import RequestError
from recsys.requests import Request
from recsys.rules import Rule, cap_of
from recsys.settings import ServeSettings
from recsys.shapes import parse_caps, parse_exploration
from recsys.shaping import AppliedCap, Pin, Shape, Shift

Ints = npt.NDArray[np.int64]


def shape_of(
    request: Request, settings: ServeSettings, rules: Sequence[Rule], items: IdIndex, allowed: BoolArray, hidden: Ints
) -> Shape:
    """The shape of the request's list under the `rules` in force. Nothing is pinned that is not `allowed` (n_items,) or
    that is `hidden` (rows: seen, or excluded by the request).
    """
    caps = parse_caps(settings.caps) if request.caps is None else request.caps
    return Shape(
        settings.diversity if request.diversity is None else request.diversity,
        (*(AppliedCap(cap) for cap in caps), *(_cap(rule) for rule in rules if rule.action == "cap")),
        parse_exploration(settings.exploration) if request.exploration is None else request.exploration,
        tuple(_shift(rule) for rule in rules if rule.action in ("boost", "bury")),
        tuple(_pin(rule, items, allowed, hidden) for rule in rules if rule.action == "pin"),
    )


def problem_of(rule: Rule, attributes: Attributes) -> str:
    """Why the rule can't be applied to the catalogue ("": it can)."""
    try:
        attributes.mask(rule.expression)
        if rule.action == "cap":
            attributes.values(rule.column or "", "column")
    except RequestError as error:
        return f"rule {rule.name!r}: {error}"
    return ""


def _cap(rule: Rule) -> AppliedCap:
    return AppliedCap(cap_of(rule), rule.expression if rule.filter is not None else None)


def _shift(rule: Rule) -> Shift:
    factor = rule.factor or 1.0
    return Shift(rule.expression, 1 / factor if rule.action == "boost" else factor)


def _pin(rule: Rule, items: IdIndex, allowed: BoolArray, hidden: Ints) -> Pin:
    """The items named; with a filter, it is left to the list which of its items is the best."""
    if rule.filter is not None:
        return Pin(rule.position or 1, np.empty(0, np.int64), rule.expression)
    rows = np.array([items.row(item) for item in rule.items if item in items], np.int64)
    return Pin(rule.position or 1, rows[allowed[rows] & ~np.isin(rows, hidden)])
