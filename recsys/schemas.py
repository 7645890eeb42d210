"""A request as JSON, checked: what batch files hold one of a line and `POST /recommend` takes."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator

from recsys.errors import RequestError
from recsys.filters import Term, parse_filter, term_of
from recsys.requests import BARE_ID, HistoryEvent, Request
from recsys.settings import ServeSettings
from recsys.shapes import parse_caps, parse_exploration

_LATEST = 253_402_300_799  # the year 9999: a larger number is milliseconds, not seconds
_SHOWN = 80
"""Characters of a caller's value that an error repeats."""


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character, which no id or value may")
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
UnixTime = Annotated[float, Field(ge=-_LATEST, le=_LATEST, allow_inf_nan=False)]
_ONE_VALUE = {"type": ["string", "number", "boolean"]}
_FILTER_SCHEMA = {
    "anyOf": [
        {"type": "string", "description": "an expression, such as category:Books AND price<20"},
        {"type": "array", "items": {"type": "string"}, "description": "expressions that must all hold"},
        {
            "type": "object",
            "additionalProperties": {"anyOf": [_ONE_VALUE, {"type": "array", "items": _ONE_VALUE, "minItems": 1}]},
            "description": "columns and the values of which one must match",
        },
        {"type": "null"},
    ]
}
FilterTerms = Annotated[tuple[Any, ...], WithJsonSchema(_FILTER_SCHEMA)]
"""Terms (see `recsys.filters`), made from any of the forms that the schema names."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class HistoryEntry(_Strict):
    """One event of a request's own history; a bare id stands for an object with `item_id` alone."""

    item_id: Text
    event: Annotated[str, AfterValidator(_without_nul)] | None = None
    """Empty is as good as none: the event is then one of no particular type."""
    timestamp: UnixTime | None = None


class RequestBody(_Strict):
    """What may be asked. `filter` is {"column": value or [values]}, an expression or a list of those; `cap` and
    `exploration` are written as in a query string.
    """

    request_id: Text | None = None
    user: Text | None = None
    history: list[HistoryEntry] | None = None
    recent: list[Text] = []
    at: UnixTime | None = None
    n: int | None = Field(default=None, ge=1)
    exclude_seen: bool | None = None
    exclude: list[Text] = []
    filter: FilterTerms = ()
    diversity: float | None = Field(default=None, ge=0, le=1)
    cap: list[str] | None = None
    exploration: str | None = None

    @field_validator("history", mode="before")
    @classmethod
    def _bare_ids(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{"item_id": entry} if isinstance(entry, str) else entry for entry in value]

    @field_validator("filter", mode="before")
    @classmethod
    def _filter_terms(cls, value: Any) -> tuple[Term, ...]:
        if value is None:
            return ()
        if isinstance(value, dict):
            return tuple(
                (_text(column), _text(one)) for column, given in value.items() for one in _values(column, given)
            )
        return tuple(_split(one) for one in (value if isinstance(value, list) else [value]))

    def to_request(self, limits: ServeSettings, *, n: int = 10, request_id: str = "") -> Request:
        """The request, with `n` and `request_id` where it names none; RequestError where it is beyond the `limits`."""
        history = self.history
        request = Request(
            request_id=self.request_id or request_id,
            user=self.user,
            history=None if history is None else tuple(_event(entry) for entry in history),
            recent=tuple(self.recent),
            at=self.at,
            n=self.n or n,
            exclude_seen=self.exclude_seen,
            exclude=tuple(self.exclude),
            filters=self.filter,
            diversity=self.diversity,
            caps=None if self.cap is None else parse_caps(self.cap),
            exploration=None if self.exploration is None else parse_exploration(self.exploration),
        )
        check_limits(request, limits)
        return request


class RankBody(RequestBody):
    """The caller's own candidates, to be put in order: `items`; the list has as many as may be shown."""

    items: list[Text] = Field(min_length=1)

    def to_request(self, limits: ServeSettings, *, n: int = 10, request_id: str = "") -> Request:
        """See `RequestBody`; items of the history stay in unless `exclude_seen` is true."""
        distinct = tuple(dict.fromkeys(self.items))
        if len(distinct) > limits.max_n:
            raise RequestError(
                "items", f"{len(distinct)} items; at most {limits.max_n} are allowed (setting serve.max_n)"
            )
        request = RequestBody.to_request(
            self, limits, n=min(max(n, len(distinct)), limits.max_n), request_id=request_id
        )
        request = request.but(among=distinct, exclude_seen=bool(self.exclude_seen))
        check_limits(request, limits)
        return request


Body = TypeVar("Body", bound=RequestBody)


def parse_body(text: bytes | str) -> RequestBody:
    """The body that a JSON text holds; RequestError names the key and the value that can't be used."""
    return parse_body_as(RequestBody, text)


def parse_body_as(kind: type[Body], text: bytes | str) -> Body:
    """The same for another kind of body."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise _refusal(error, kind) from None


def check_limits(request: Request, limits: ServeSettings) -> None:
    """RequestError where a list is too long or an id is."""
    if not 1 <= request.n <= limits.max_n:
        raise RequestError("n", f"n={request.n}: must be between 1 and {limits.max_n} (setting serve.max_n)")
    given = {
        "request_id": [request.request_id],
        "user": [request.user or ""],
        "history": [event.item_id for event in request.history or ()],
        "recent": request.recent,
        "exclude": request.exclude,
        "items": request.among or (),
    }
    for name, ids in given.items():
        longest = max(map(len, ids), default=0)
        if longest > limits.max_id_length:
            raise RequestError(
                name,
                f"{name} holds an id of {longest} characters; at most {limits.max_id_length} are allowed"
                " (setting serve.max_id_length)",
            )


def _event(entry: HistoryEntry) -> HistoryEvent:
    return HistoryEvent(entry.item_id, entry.event or BARE_ID, entry.timestamp)


def _values(column: str, given: Any) -> list[Any]:
    values = given if isinstance(given, list) else [given]
    if not values:
        raise ValueError(f"column {column!r} must name at least one value")
    return values


def _text(value: Any) -> str:
    """A filter's column or value as text; a number or truth value is written as JSON writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)) and math.isfinite(value):
        return repr(value)
    if not isinstance(value, str) or not value:
        raise ValueError("columns are non-empty strings; values are non-empty strings, numbers, true or false")
    return _without_nul(value)


def _split(value: Any) -> Term:
    if not isinstance(value, str):
        raise ValueError('expected {"column": "value"} or "column:value", for example {"category": "Books"}')  # noqa: TRY004  (pydantic takes ValueError)
    try:
        return term_of(parse_filter(_without_nul(value)))
    except RequestError as error:
        raise ValueError(str(error)) from None


def _refusal(error: ValidationError, kind: type[RequestBody]) -> RequestError:
    """The first problem in words; a problem of the whole text (no JSON, no object) has the parameter "body"."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = HistoryEntry if len(first["loc"]) > 1 else kind
        return RequestError(path, f"unknown key {path[:_SHOWN]!r}; allowed are {', '.join(known.model_fields)}")
    message = first["msg"].removeprefix("Value error, ")
    if not path:
        return RequestError("body", f"not a JSON object: {message}")
    shown = "" if first["type"] == "missing" else f"={_shown(first['input'])}"
    hint = "; times are unix seconds" if path.split(".")[-1] in ("at", "timestamp") else ""
    return RequestError(str(first["loc"][0]), f"{path}{shown}: {message}{hint}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
