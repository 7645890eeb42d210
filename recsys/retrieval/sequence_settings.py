"""Settings of the sequence source; apart from the model, so that reading them loads no torch."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from features.settings import Settings


class SequenceSettings(Settings):
    """Settings of the sequence source."""

    models: int = Field(default=2, ge=1, le=8)
    """Models of different seeds whose scores are added up. An answer takes the time of all; training trains as many at
    a time as there are `threads`.
    """
    attending: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(1, 2), min_length=1)
    """So many of them attend to the history beside filtering it; the others filter alone, which is faster and on some
    data better. `recsys train` takes the best.
    """
    filter_gaps: int = Field(default=12, ge=2)
    """Weights of the filter: one for each number of moments ago, the last for all that is longer ago."""
    size: int = Field(default=64, ge=2)
    """Length of an item's vector in one model; a multiple of `heads`."""
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    max_tokens: int = Field(default=50, ge=2)
    """Newest items of a history that are looked at."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    id_dropout: float = Field(default=0.15, ge=0, lt=1)
    """How often an item is its text alone while training; no effect without text."""
    epochs: int = Field(default=40, ge=1)
    """Passes over the sequences at most."""
    max_trained_tokens: int = Field(default=4_000_000, ge=1)
    """Of each model. Bounds the time on large data: fewer passes where there are more events."""
    batch_tokens: int = Field(default=4096, ge=64)
    negatives: int = Field(default=1024, ge=1)
    """Items drawn for each batch."""
    learning_rate: float = Field(default=0.002, gt=0)
    id_learning_rate: float = Field(default=0.01, gt=0)
    """Of the id embeddings, each of which a batch hardly moves."""
    checks: int = Field(default=8, ge=1)
    """How often the model is judged on held-out users; where an earlier state was clearly better, it is kept."""
    share_held_out: float = Field(default=0.05, gt=0, lt=1)
    max_held_out: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _heads_share_the_vector(self) -> Self:
        if self.size % self.heads:
            raise ValueError(f"size {self.size} must be a multiple of heads {self.heads}")
        return self
