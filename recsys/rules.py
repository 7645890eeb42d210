"""What a merchant wants of every list: pin, boost, bury, exclude and cap, each for a period. TOML and JSON alike."""

from __future__ import annotations

import datetime
import tomllib
from functools import cached_property
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, AwareDatetime, Field, ValidationError, model_validator

from features.settings import Settings
from features.tables import ITEM_ID
from recsys.errors import RequestError, SettingsError
from recsys.filters import EQUALS, AllOf, AnyOf, Comparison, Filter, parse_filter
from recsys.shapes import Cap

Action = Literal["pin", "boost", "bury", "exclude", "cap"]
_NEEDS: dict[str, frozenset[str]] = {
    "pin": frozenset({"position"}),
    "boost": frozenset({"factor"}),
    "bury": frozenset({"factor"}),
    "exclude": frozenset(),
    "cap": frozenset({"column", "most"}),
}
_MAY: dict[str, frozenset[str]] = {"cap": frozenset({"first", "filter"})}
_OTHERS = frozenset({"items", "filter"})
_COMMON = frozenset({"name", "action", "from", "until"})


def _readable(text: str) -> str:
    try:
        parse_filter(text)
    except RequestError as error:
        raise ValueError(str(error)) from None
    return text


class Rule(Settings):
    """One rule. It speaks of the `items` named, or of those that the `filter` lets through, and applies from `from`
    (inclusive) `until` (exclusive), to lists that are for a time in between.

    `pin`: the first of the items that may be shown, or the filter's best candidate, stands at `position`, 1 = first.
    `boost`: an item at place r competes as if it were at r / `factor`; `bury`: at r * `factor`. Places rather than
    scores, because of a LambdaMART score only the order means anything. `exclude`: never shown. `cap`: at most `most`
    items that share a value of `column` in the `first` places (left out: everywhere); with a `filter`, only its items
    count.
    """

    name: str = Field(min_length=1, max_length=200)
    action: Action
    items: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    filter: Annotated[str, AfterValidator(_readable)] | None = None
    position: int | None = Field(default=None, ge=1, le=1000)
    factor: float | None = Field(default=None, gt=1, le=1000)
    column: str | None = Field(default=None, min_length=1)
    most: int | None = Field(default=None, ge=1)
    first: int | None = Field(default=None, ge=1)
    starts: AwareDatetime | None = Field(default=None, alias="from")
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _whole(self) -> Rule:
        """Exactly the keys that the action has a use for."""
        fields = Rule.model_fields.items()
        given = {field.alias or name for name, field in fields if getattr(self, name) not in (None, ())}
        may = _NEEDS[self.action] | _MAY.get(self.action, _OTHERS) | _COMMON
        for name in sorted(_NEEDS[self.action] - given):
            raise ValueError(f"{self.action} needs {name!r}")
        for name in sorted(given - may):
            raise ValueError(f"{self.action} has no use for {name!r}; it takes {', '.join(sorted(may - _COMMON))}")
        if self.action != "cap" and bool(self.items) == (self.filter is not None):
            raise ValueError(f"{self.action} needs either 'items' or 'filter'")
        if self.starts and self.until and self.until <= self.starts:
            raise ValueError("'until' must be later than 'from'")
        return self

    @cached_property
    def expression(self) -> Filter:
        """The items that the rule speaks of."""
        if self.filter is not None:
            return parse_filter(self.filter)
        return AnyOf(tuple(Comparison(ITEM_ID, EQUALS, item) for item in self.items)) if self.items else AllOf(())

    def applies(self, at: float) -> bool:
        """Whether a list for the time `at` (unix seconds) is its business."""
        return self._span[0] <= at < self._span[1]

    @cached_property
    def _span(self) -> tuple[float, float]:
        start = self.starts.timestamp() if self.starts else -float("inf")
        return start, self.until.timestamp() if self.until else float("inf")


class Rules(Settings):
    """All rules; names are unique."""

    rules: tuple[Rule, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _distinct(self) -> Rules:
        names = [rule.name for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rules are called {name!r}")
        return self

    def at(self, time: float) -> tuple[Rule, ...]:
        """The rules that apply to a list for the time, in their order."""
        return tuple(rule for rule in self.rules if rule.applies(time))

    def to_toml(self) -> str:
        """As the text of a rules file."""
        return tomli_w.dumps(_plain(self))

    def document(self) -> dict[str, Any]:
        """As JSON values, without what is not set."""
        return {"rules": [rule.model_dump(mode="json", by_alias=True, exclude_defaults=True) for rule in self.rules]}


NO_RULES = Rules()


def rules_from_toml(text: str, origin: str) -> Rules:
    """The rules of a TOML text; SettingsError names the `origin`, the rule, the key and the value."""
    try:
        return Rules.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{origin} is not TOML: {error}") from None
    except ValidationError as error:
        raise SettingsError(f"{origin}: {_problem(error)}") from None


def rules_from_json(text: bytes) -> Rules:
    """The rules of a JSON body; RequestError names the rule, the key and the value."""
    try:
        return Rules.model_validate_json(text)
    except ValidationError as error:
        raise RequestError("rules", _problem(error)) from None


def cap_of(rule: Rule) -> Cap:
    """The cap of a cap rule."""
    return Cap(rule.column or "", rule.most or 1, rule.first)


def _plain(rules: Rules) -> dict[str, Any]:
    rows = [rule.model_dump(by_alias=True, exclude_defaults=True) for rule in rules.rules]
    return {"rules": [{key: _toml(value) for key, value in row.items() if value is not None} for row in rows]}


def _toml(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC)
    return list(value) if isinstance(value, tuple) else value


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = Rule.model_fields if len(first["loc"]) > 1 else Rules.model_fields
        names = ", ".join(field.alias or name for name, field in known.items())
        return f"unknown key {path!r}; allowed are {names}"
    shown = repr(first["input"])
    name = first["input"].get("name") if isinstance(first["input"], dict) else None
    where = f"{path} ({name!r})" if name else path or "the whole"
    value = "" if isinstance(first["input"], (dict, list, bytes)) or first["type"] == "missing" else f" = {shown[:80]}"
    return f"{where}{value}: {message}"
