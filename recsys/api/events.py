"""`POST /events`: from a JSON body to events and the reasons against the others, and back to one verdict a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from features.event_rows import DEFAULT_EVENT, FUTURE, FUTURE_MILLISECONDS, MILLISECONDS
from features.tables import BoolArray
from recsys.api.bodies import parse_json
from recsys.errors import RequestError
from recsys.stores.base import MAX_ID_BYTES, MAX_TEXT, Event, Verdict, storable
from recsys.stores.settings import StoreSettings

FUTURE_SECONDS = 86_400.0
"""An event may be dated so far after now: clocks differ, and local time read as UTC is up to 14 hours ahead."""
_LARGEST_VALUE = 3.4e38
_SHOWN = 80
_DAY = 86_400.0


def _whole(text: str) -> str:
    if "\ufffd" in text or not storable(text):
        raise ValueError("holds a NUL or broken character")
    return text


def _id(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if len(_whole(text).encode()) > MAX_ID_BYTES:
        raise ValueError(f"is longer than {MAX_ID_BYTES} bytes")
    return text


Id = Annotated[str, AfterValidator(_id)]
Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_whole)]


class EventBody(BaseModel):
    """One event as it is sent. `timestamp` is in unix seconds or ISO 8601 (UTC where it does not say), now if absent;
    without an `event_id` an event is known by user, item, name and time.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    user_id: Id
    item_id: Id
    event: Text | None = None
    timestamp: float | str | None = None
    value: Annotated[float, Field(ge=-_LARGEST_VALUE, le=_LARGEST_VALUE)] | None = None
    event_id: Id | None = None
    session_id: Text | None = None
    request_id: Text | None = None
    query: Text | None = None


@dataclass(frozen=True)
class Refused:
    """Why a row is no event, and which key is to blame."""

    parameter: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """The rows of a body in their order. `alone`: the body was one event, not a list."""

    rows: tuple[Event | Refused, ...]
    alone: bool

    @property
    def events(self) -> list[Event]:
        """The rows that are events."""
        return [row for row in self.rows if isinstance(row, Event)]


def read_events(body: bytes, now: float, settings: StoreSettings) -> Reading:
    """The events of a body: an object, a list of them, or {"events": [...]}. RequestError where it is none of these, or
    has more rows than one call may; what is wrong with a row is that row's own verdict.
    """
    given = parse_json(body)
    alone = isinstance(given, dict) and "events" not in given
    rows = [given] if alone else given["events"] if isinstance(given, dict) and len(given) == 1 else given
    if not isinstance(rows, list):
        raise RequestError("body", 'expected an event {...}, a list of events, or {"events": [...]} alone')
    if len(rows) > settings.max_rows:
        raise RequestError(
            "events", f"{len(rows)} events in one call; at most {settings.max_rows} are taken (store.max_rows)"
        )
    oldest = 0.0 if settings.retention_days is None else now - settings.retention_days * _DAY
    return Reading(tuple(_read(row, now, oldest) for row in rows), alone)


def verdicts_document(reading: Reading, verdicts: Sequence[Verdict], known: BoolArray | None) -> dict[str, Any]:
    """What `POST /events` answers. `verdicts` and `known` (whether the item is in the catalogue; None: there is none)
    are of the rows that are events, in their order.
    """
    rows: list[dict[str, Any]] = []
    counts = {"accepted": 0, "duplicate": 0, "rejected": 0}
    place = 0
    for row in reading.rows:
        if isinstance(row, Refused):
            rows.append({"status": "rejected", "reason": row.reason})
        else:
            rows.append(_verdict(row, verdicts[place], is_known=known is None or bool(known[place])))
            place += 1
        counts[rows[-1]["status"]] += 1
    return counts | {"events": rows}


def _verdict(event: Event, verdict: Verdict, *, is_known: bool) -> dict[str, Any]:
    if verdict == "forgotten":
        return {"status": "rejected", "reason": "the user was forgotten after the event happened"}
    out: dict[str, Any] = {"status": verdict}
    if event.event_id:
        out["event_id"] = event.event_id
    if not is_known:
        out["note"] = "unknown item: stored, and used once the item is known"
    return out


def _read(row: Any, now: float, oldest: float) -> Event | Refused:
    if not isinstance(row, dict):
        return Refused("events", f"not a JSON object: {_shown(row)}")
    try:
        body = EventBody.model_validate(row)
        time = now if body.timestamp is None else _seconds(body.timestamp)
    except ValidationError as error:
        return _refusal(error)
    except ValueError as error:
        return Refused("timestamp", str(error))
    if time > now + FUTURE_SECONDS:
        milliseconds = time >= MILLISECONDS and not isinstance(body.timestamp, str)
        return Refused("timestamp", f"{_given(body, time)}: {FUTURE_MILLISECONDS if milliseconds else FUTURE}")
    if time < oldest:
        reason = "before 1970, or older than what is kept (store.retention_days)"
        return Refused("timestamp", f"{_given(body, time)}: {reason}")
    return Event(
        body.user_id, body.item_id, time, (body.event or "").strip() or DEFAULT_EVENT,
        1.0 if body.value is None else body.value, body.event_id or "", body.session_id or None,
        body.request_id or None, body.query or None,
    )  # fmt: skip


def _given(body: EventBody, time: float) -> str:
    return f"timestamp={_shown(body.timestamp) if isinstance(body.timestamp, str) else f'{time:.15g}'}"


def _seconds(timestamp: float | str) -> float:
    if not isinstance(timestamp, str):
        return float(timestamp)
    try:
        moment = datetime.fromisoformat(timestamp)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"timestamp={_shown(timestamp)}: neither unix seconds nor ISO 8601") from None


def _refusal(error: ValidationError) -> Refused:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0] if first["loc"] else first["input"])[:_SHOWN]  # a key that is no Unicode has no place
    if first["type"] == "extra_forbidden" or not first["loc"]:
        return Refused(key, f"unknown key {key!r}; allowed are {', '.join(EventBody.model_fields)}")
    if first["type"] == "missing":
        return Refused(key, f"no {key}")
    return Refused(key, f"{key}={_shown(first['input'])}: {first['msg'].removeprefix('Value error, ')}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
