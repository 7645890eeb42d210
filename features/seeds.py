"""Seeds of the members of an ensemble."""

from __future__ import annotations


def member_seed(seed: int, number: int) -> int:
    """The seed of one of several models that are added up, of 31 bits; the first has the `seed` itself."""
    return (seed + 7919 * number) % 2**31
