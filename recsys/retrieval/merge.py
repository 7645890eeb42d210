"""The union of what the sources found, with every source's opinion of every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from features.histories import Histories
from features.runs import rank_in_run
from features.tables import BoolArray
from recsys.retrieval.base import CandidateSource
from recsys.retrieval.scores import F32


@dataclass(frozen=True)
class Candidates:
    """Pairs (query_rows, item_rows) sorted by history, then item row; no pair twice.

    `columns` maps `source:view` to the scores (n_pairs,) float32, and `source:rank` to the source's own rank (1 =
    best, NaN where it did not offer the item). `first_source` (n_pairs,) is the index of the source that ranks the
    pair highest.
    """

    query_rows: npt.NDArray[np.int64]
    item_rows: npt.NDArray[np.int64]
    columns: dict[str, F32]
    first_source: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.query_rows)


def score_name(source: str, view: str) -> str:
    """The column of a source's view; the view it recommends by is called `score`."""
    return f"{source}:{view or 'score'}"


def merge(
    sources: Sequence[CandidateSource],
    histories: Histories,
    per_source: int,
    blocked: sp.csr_matrix,
    allowed: BoolArray | None = None,
) -> Candidates:
    """Ask every source for its best `per_source` items a history, unite them, and let every source score the union."""
    answers = [source.scores(histories) for source in sources]
    tops = [answer[""].top(per_source, blocked, allowed) for answer in answers]
    keys = [t.query_rows * histories.num_items + t.item_rows for t in tops]
    union = np.unique(np.concatenate(keys)) if keys else np.empty(0, np.int64)
    query_rows, item_rows = np.divmod(union, max(histories.num_items, 1))
    columns: dict[str, F32] = {}
    best_rank = np.full(len(union), np.inf, np.float32)
    first_source = np.zeros(len(union), np.int64)
    for number, (source, answer, top, key) in enumerate(zip(sources, answers, tops, keys, strict=True)):
        for view, scores in answer.items():
            columns[score_name(source.name, view)] = scores.at(query_rows, item_rows)
        rank = np.full(len(union), np.nan, np.float32)
        rank[np.searchsorted(union, key)] = rank_in_run(top.query_rows) + 1
        columns[f"{source.name}:rank"] = rank
        better = np.nan_to_num(rank, nan=np.inf) < best_rank
        best_rank[better], first_source[better] = rank[better], number
    return Candidates(query_rows, item_rows, columns, first_source)
