"""What the calls answer, as schemas: they describe the documents, and a test holds the documents against them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from recsys.rules import Rules


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


class ProblemDocument(Answer):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    parameter: str | None = Field(default=None, description="what to mend")
