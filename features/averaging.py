"""Averages of weights over the steps of training (Polyak and Juditsky 1992), exponentially decayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class WeightAverage:
    """The running mean of `weights`: after every step, `decay` of the mean and the rest of what the weights are now.

    In the first steps the decay is lower, so that the mean follows at once; a `decay` of 0 is no averaging.
    """

    def __init__(self, weights: Sequence[torch.Tensor], decay: float) -> None:
        self._weights = list(weights)
        self._decay = decay
        self._means = copies(weights) if decay else []
        self._num_updates = 0

    def update(self) -> None:
        """Take in the weights as they are now."""
        import torch

        if not self._means:
            return
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        self._num_updates += 1
        with torch.no_grad():
            for mean, weight in zip(self._means, self._weights, strict=True):
                mean.lerp_(weight, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The weights hold the mean inside, and what they were afterwards."""
        if not self._means:
            yield
            return
        before = copies(self._weights)
        put(self._means, self._weights)
        try:
            yield
        finally:
            put(before, self._weights)


def copies(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The values of the weights as they are now."""
    return [weight.detach().clone() for weight in weights]


def put(values: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> None:
    """Set each weight to its value."""
    import torch

    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
