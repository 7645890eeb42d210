"""Query strings: each call's parameters as a pydantic model, which reads them, checks them and describes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from recsys.errors import RequestError
from recsys.filters import parse_filter, term_of
from recsys.requests import Request
from recsys.schemas import check_limits
from recsys.settings import ServeSettings
from recsys.shapes import parse_cap, parse_exploration

_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_SHOWN = 80
"""Characters of a caller's value that an error repeats."""


def _whole_number(text: Any) -> Any:
    if isinstance(text, str) and not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError("must be a whole number, for example 10")
    return int(text)


def _truth(text: Any) -> Any:
    if isinstance(text, str) and text not in _TRUTH:
        raise ValueError("must be true or false")
    return _TRUTH.get(text, text)


def _ids(text: Any) -> Any:
    """A comma list of item ids. Ids that hold a comma have to come in a POST."""
    return tuple(part for part in text.split(",") if part) if isinstance(text, str) else text


def _share(text: Any) -> Any:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number between 0 and 1") from None


WholeNumber = Annotated[int, BeforeValidator(_whole_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Ids = Annotated[tuple[str, ...], BeforeValidator(_ids), WithJsonSchema({"type": "string"})]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_share)]
_RECENT = "item ids separated by commas: what was just looked at and is not stored yet, oldest first"
_EXCLUDE = "item ids separated by commas that must not be in the list"
_FILTER = (
    "repeatable: column:value, price<20, brand!=X, joined by AND, OR, NOT and parentheses; repeated column:value of one"
    " column are alternatives, and everything else must hold"
)


class Query(BaseModel):
    """The parameters of one call. `repeatable` may be given several times, all others once."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    repeatable: ClassVar[frozenset[str]] = frozenset({"filter"})

    @classmethod
    def read(cls, query: bytes) -> Self:
        """From a raw, still percent-encoded query string; RequestError names the parameter that is malformed."""
        values = _values(query, tuple(cls.model_fields))
        once = {name: given if name in cls.repeatable else given[0] for name, given in values.items()}
        cls._check_repeats(values)
        try:
            return cls.model_validate(once)
        except ValidationError as error:
            raise _refusal(error) from None

    @classmethod
    def _check_repeats(cls, values: dict[str, list[str]]) -> None:
        for name, given in values.items():
            if len(given) > 1 and name not in cls.repeatable:
                raise RequestError(name, f"{name} is given {len(given)} times; give it once")


class ItemsQuery(Query):
    """What all calls that list items take."""

    user: str | None = Field(default=None, description="the user's id; leave it out for a guest")
    n: WholeNumber = Field(default=10, description="length of the list", json_schema_extra={"minimum": 1})
    recent: Ids | None = Field(default=None, description=_RECENT)
    exclude: Ids = Field(default=(), description=_EXCLUDE, json_schema_extra={"default": ""})
    filter: list[str] = Field(default=[], description=_FILTER)

    def to_request(self, request_id: str, limits: ServeSettings) -> Request:
        """The request; RequestError where it is beyond the `limits`, or a filter can't be read."""
        if self.user == "":
            raise RequestError("user", "user is empty; for a guest leave it out and send recent=")
        request = Request(
            request_id=request_id,
            user=self.user,
            history=() if self.user is None else None,
            recent=self.recent or (),
            n=self.n,
            exclude=self.exclude,
            filters=tuple(term_of(parse_filter(text)) for text in self.filter),
        )
        check_limits(request, limits)
        return request


class RecommendQuery(ItemsQuery):
    """Parameters of `GET /recommend`."""

    repeatable: ClassVar[frozenset[str]] = frozenset({"filter", "cap"})
    exclude_seen: Truth | None = Field(
        default=None, description="false lets items of the history in; the setting says what is the default"
    )
    diversity: Share | None = Field(default=None, description="0 to 1: how much the list avoids items that are alike")
    cap: list[str] | None = Field(
        default=None,
        description="repeatable: category:2, at most 2 of a category; category:2/10, in the first 10 places",
    )
    exploration: str | None = Field(
        default=None, description="none, epsilon:0.1 or softmax:0.1; each item then has its propensity"
    )

    def to_request(self, request_id: str, limits: ServeSettings) -> Request:
        """A user, or a guest who sends `recent`, if only an empty one."""
        if self.user is None and self.recent is None:
            raise RequestError("user", "user is missing; for a guest send recent= with the items seen so far, if any")
        return ItemsQuery.to_request(self, request_id, limits).but(
            exclude_seen=self.exclude_seen,
            diversity=self.diversity,
            caps=None if self.cap is None else tuple(parse_cap(text) for text in self.cap if text),
            exploration=None if self.exploration is None else parse_exploration(self.exploration),
        )


class SimilarQuery(ItemsQuery):
    """Parameters of `GET /similar`."""

    item: str = Field(min_length=1, description="the item's id")


class SearchQuery(ItemsQuery):
    """Parameters of `GET /search`."""

    q: str = Field(max_length=1000, description="what is looked for, in any words")


def _values(query: bytes, allowed: Sequence[str]) -> dict[str, list[str]]:
    """Each parameter's values, decoded strictly: what can't be read is refused, never replaced by question marks."""
    values: dict[str, list[str]] = {}
    for pair in filter(None, query.split(b"&")):
        raw_name, _, raw_value = pair.partition(b"=")
        name = _decoded(raw_name, raw_name.decode("ascii", "replace"))
        if name not in allowed:
            raise RequestError(name, f"unknown parameter {name[:_SHOWN]!r}; allowed are {', '.join(allowed)}")
        values.setdefault(name, []).append(_decoded(raw_value, name))
    return values


def _decoded(raw: bytes, name: str) -> str:
    if _BROKEN_ESCAPE.search(raw):
        raise RequestError(name, f"{name[:_SHOWN]}: % must be followed by two hex digits; write a plain % as %25")
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(name, f"{name[:_SHOWN]} is not percent-encoded UTF-8") from None
    if "\0" in text:
        raise RequestError(name, f"{name[:_SHOWN]} holds a NUL character, which no id or value may")
    return text


def _refusal(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return RequestError(name, f"{name} is missing")
    return RequestError(name, f"{name}={str(first['input'])[:_SHOWN]!r}: {first['msg'].removeprefix('Value error, ')}")
