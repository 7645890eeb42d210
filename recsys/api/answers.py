"""What the calls answer, as schemas: they describe the documents, and a test holds the documents against them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recsys.api.events import EventBody
from recsys.rules import Rules


class EventsBody(BaseModel):
    """Some events; one alone, or a bare list of them, is taken too."""

    events: list[EventBody]


class ItemBody(BaseModel):
    """An item: any of the catalogue's columns, such as these."""

    model_config = ConfigDict(extra="allow")
    title: str | None = None
    description: str | None = None
    category: str | list[str] | None = None
    brand: str | None = None
    price: float | None = None
    available: bool | None = None


class ItemsBody(BaseModel):
    """Some items, each with its `item_id`."""

    items: list[dict[str, Any]]


class Answer(BaseModel):
    """A document of the service; what is not described here is not in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ListedItem(Answer):
    """One item of a list."""

    item_id: str
    rank: int = Field(
        ge=1, description="1 is the best; where rules, diversity or exploration shape the list, it is the order"
    )
    score: float = Field(description="the ranker's score; comparable within one list only")
    title: str
    sources: list[str] = Field(description="what offered the item, the source that ranks it highest first")
    propensity: float | None = Field(
        default=None,
        description="where the list explores: the probability that the item stands here, given those above",
    )


class ListAnswer(Answer):
    """A list of items."""

    user: str | None
    request_id: str
    bundle: str = Field(description="the version of the model that answered")
    variant: str | None = Field(default=None, description="where an experiment runs: the variant that answered")
    strategy: str = Field(description="which path answered")
    reason: str = Field(description="why, where it is a fallback")
    unknown_history_items: int = Field(ge=0)
    degraded: bool = Field(default=False, description="the event store could not be asked: stored events are missing")
    degraded_reason: str | None = None
    items: list[ListedItem]


class SimilarAnswer(ListAnswer):
    """Items like an item."""

    item: str


class SearchAnswer(ListAnswer):
    """Items that a query found."""

    query: str


class RankAnswer(ListAnswer):
    """The caller's candidates in order."""

    unknown_items: list[str] = Field(description="candidates that are not in the catalogue")
    left_out: list[str] = Field(description="candidates that filters, rules or availability keep from being shown")


class RulesAnswer(Rules):
    """The rules in force."""

    problems: list[str] = Field(default=[], description="what of the file as it is now can't be used, and why")


class Alive(Answer):
    """The process answers."""

    status: str


class Ready(Alive):
    """A verified model is loaded."""

    bundle: str
    refused: str | None = Field(default=None, description="why the promoted version is not the one that answers")


class EventVerdict(Answer):
    """What became of one event."""

    status: Literal["accepted", "duplicate", "rejected"]
    event_id: str | None = None
    reason: str | None = Field(default=None, description="why it was rejected")
    note: str | None = None


class EventsAnswer(Answer):
    """A verdict for each event, in their order; what is accepted is on the disk."""

    request_id: str
    accepted: int = Field(ge=0)
    duplicate: int = Field(ge=0)
    rejected: int = Field(ge=0)
    events: list[EventVerdict]


class ForgottenAnswer(Answer):
    """A user is forgotten."""

    request_id: str
    user: str
    removed_events: int = Field(ge=0)


class ItemAnswer(Answer):
    """An item was stored and is in the next answer."""

    request_id: str
    bundle: str
    item_id: str
    stored: int = 1


class ItemsAnswer(Answer):
    """Items were stored and are in the next answer."""

    request_id: str
    bundle: str
    stored: int = Field(ge=1)


class DeletedAnswer(Answer):
    """An item is in no later answer."""

    request_id: str
    bundle: str
    item_id: str
    known: bool = Field(description="whether there was such an item")


class ProblemDocument(Answer):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    parameter: str | None = Field(default=None, description="what to mend")
