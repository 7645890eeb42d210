"""The union of what the sources found, with every source's opinion of every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.compiled import compiled, fixed
from features.histories import Histories, Ints
from features.item_sets import ItemSets
from features.runs import Pairs, run_starts
from features.tables import BoolArray
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.scores import F32


@dataclass(frozen=True)
class Candidates:
    """`pairs` sorted by history, then item row; no pair twice.

    `columns` maps `source:view` to the scores (n_pairs,) float32, and `source:rank` to the source's own rank (1 = best,
    NaN where it did not offer the item).
    """

    pairs: Pairs
    columns: dict[str, F32]


def score_name(source: str, view: str) -> str:
    """The column of a source's view; the view it recommends by is called `score`."""
    return f"{source}:{view or 'score'}"


def merge(
    sources: Sequence[CandidateSource],
    histories: Histories,
    per_source: int,
    blocked: ItemSets,
    allowed: BoolArray | None = None,
) -> Candidates:
    """Ask every source for its best `per_source` items a history, unite them, and let every source score the union."""
    answers = [source.scores(histories) for source in sources]
    tops = [answer[""].top(per_source, blocked, allowed) for answer in answers]
    keys = [t.query_rows * histories.num_items + t.item_rows for t in tops]
    union = np.sort(np.concatenate([np.empty(0, np.int64), *keys]))
    union = union[run_starts(union)]
    pairs = Pairs(*np.divmod(union, max(histories.num_items, 1)))
    columns: dict[str, F32] = {}
    for source, answer, top, key in zip(sources, answers, tops, keys, strict=True):
        for view, scores in answer.items():
            columns[score_name(source.name, view)] = scores.at(pairs)
        columns[f"{source.name}:rank"] = _ranks(fixed(union), fixed(key), fixed(top.query_rows))
    return Candidates(pairs, columns)


@compiled
def _ranks(union: Ints, keys: Ints, query_rows: Ints) -> F32:
    """Of each key in `union` (ascending) its rank among the `keys` of its history, which stand best first."""
    ranks = np.full(len(union), np.nan, np.float32)
    rank = 0
    for place in range(len(keys)):
        rank = rank + 1 if place and query_rows[place] == query_rows[place - 1] else 1
        ranks[np.searchsorted(union, keys[place])] = rank
    return ranks
