"""A cache of a method that does not keep its owner alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


def cached_method(method: Callable[..., T], maxsize: int | None) -> Callable[..., T]:
    """`lru_cache` of a bound method, to be an attribute of its own object. `lru_cache` itself would hold the object
    that holds it, and such a ring is freed late: a service that makes a model a second would hold dozens.
    """
    function: Any = method.__func__  # type: ignore[attr-defined]
    owner = weakref.ref(method.__self__)  # type: ignore[attr-defined]

    @lru_cache(maxsize=maxsize)
    def cached(*arguments: Any) -> T:
        result: T = function(owner(), *arguments)
        return result

    return cached
