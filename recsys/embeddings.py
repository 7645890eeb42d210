"""A fitted model with other embeddings of its texts: what depends on text follows, behaviour stays as it was."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeVar, runtime_checkable

from recsys.model import FittedModel
from recsys.retrieval.scores import F32

T = TypeVar("T")
_FIELD = "embeddings"


@runtime_checkable
class Embedded(Protocol):
    """A fitted component that keeps something computed from the embeddings, and so has to compute it again."""

    def with_embeddings(self, embeddings: F32) -> Any:
        """The same component as if the catalogue's embeddings (n_items, embedding_size) had been these when it
        answers; what it learned from behaviour stays.
        """
        ...


def with_embeddings(model: FittedModel, embeddings: F32) -> FittedModel:
    """`model` over `embeddings` (n_items, embedding_size) float32, unit rows on the item grid: in every component,
    however deep, the field `embeddings` is replaced; one that has a method `with_embeddings` is asked instead.
    """
    sources = tuple(replace_embeddings(source, embeddings) for source in model.sources)
    return dataclasses.replace(model, sources=sources, features=replace_embeddings(model.features, embeddings))


def replace_embeddings(component: T, embeddings: F32) -> T:
    """One fitted component over other embeddings; see `with_embeddings`."""
    if isinstance(component, Embedded):
        replaced: T = component.with_embeddings(embeddings)
        return replaced
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(component):  # type: ignore[arg-type]
        value = getattr(component, field.name)
        if field.name == _FIELD:
            changes[_FIELD] = _checked(embeddings, value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes[field.name] = replace_embeddings(value, embeddings)
    return dataclasses.replace(component, **changes) if changes else component  # type: ignore[type-var]


def _checked(embeddings: F32, old: F32) -> F32:
    """A component that was fitted without text has (n_items, 0) embeddings and stays without it."""
    if not old.shape[1]:
        return old
    if embeddings.shape != old.shape:
        raise ValueError(f"embeddings of shape {embeddings.shape} can't stand in for ones of {old.shape}")
    return embeddings
