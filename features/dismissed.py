"""What is known from dismissals: how unwanted an item is, and how near to what the user has sent away."""

from __future__ import annotations

import numpy as np

from features.grid import on_grid
from features.histories import Histories
from features.item import Columns, ItemFeatures, Numbers
from features.pair import PairFeatures
from features.runs import Pairs


def dismissed_columns(histories: Histories, items: ItemFeatures, taste: PairFeatures, pairs: Pairs) -> Columns:
    """Features of (history, item) pairs sorted by history, each (n_pairs,); none where `items` know of no dismissals.
    `taste` knows texts and attributes.
    """
    if not len(items.dismissed_share):
        return {}
    sent_away = histories.dismissed
    counts = np.log1p(np.diff(sent_away.indptr)).astype(np.float32)
    out: Columns = {
        "dismissed:share_of_item": items.dismissed_share[pairs.item_rows],
        "dismissed:items": counts[pairs.query_rows],
    }
    if taste.embeddings.shape[1]:
        out["dismissed:text"] = _nearest_text(histories, taste, pairs)
    return out | {f"dismissed:share:{name}": row for name, row in taste.shares(sent_away, pairs).items()}


def _nearest_text(histories: Histories, taste: PairFeatures, pairs: Pairs) -> Numbers:
    """(n_pairs,): the largest inner product with the newest dismissed items; NaN where there is none."""
    out = np.full(len(pairs), np.nan, np.float32)
    sent_away, size = histories.dismissed, slice(taste.tuned_size or None)
    for query, span in pairs.runs:
        rows = sent_away.indices[sent_away.span(query)][-taste.recent_items :]
        if len(rows):
            own, others = pairs.taken(taste.embeddings, span), on_grid(taste.embeddings[rows], items=False)
            out[span] = (own[:, size] @ others[:, size].T).max(axis=1)
    return out
