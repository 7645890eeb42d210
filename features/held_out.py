"""How well embeddings find what held-out users chose next: the judge of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from features.next_items import NextItemPairs

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
K = 10
_CELLS = 2**24


@dataclass(frozen=True)
class HeldOutChoices:
    """Choices of users that nothing was trained on.

    `profiles` (n_choices, n_items) float32 CSR: the items of the moments before, halved with every moment back.
    `targets` and `target_choices` (n_targets,): an item chosen next and its row in `profiles`. `target_users`
    (n_targets,): who chose it.
    """

    profiles: sp.csr_matrix
    targets: I64
    target_choices: I64
    target_users: I64

    @classmethod
    def build(cls, pairs: NextItemPairs, num_items: int, newest: int = 5) -> HeldOutChoices:
        """The `newest` choices of each user. Baskets count only where no pair spans two moments: then each of a
        basket's items is to be found from the others."""
        ordered = bool((pairs.gaps > 0).any())
        pairs = pairs.select(pairs.gaps > 0) if ordered else pairs
        split_by = np.zeros(len(pairs), np.int64) if ordered else pairs.positive_rows
        columns = np.stack([pairs.user_rows, pairs.moments, split_by], axis=1)
        choices, choice_rows = np.unique(columns, axis=0, return_inverse=True)
        choice_rows = choice_rows.reshape(-1)
        kept = _newest(choices[:, 0], newest)[choice_rows]
        shape = (len(choices), num_items)
        profiles = _profiles(choice_rows[kept], pairs.anchor_rows[kept], pairs.gaps[kept], shape)
        found = np.unique(np.stack([choice_rows[kept], pairs.positive_rows[kept]], axis=1), axis=0)
        known = choice_rows[kept] * num_items + pairs.anchor_rows[kept]
        new = ~np.isin(found[:, 0] * num_items + found[:, 1], known)
        found = found[new]
        return cls(profiles, found[:, 1], found[:, 0], choices[found[:, 0], 0])

    @property
    def num_users(self) -> int:
        """Users with at least one choice to find."""
        return len(np.unique(self.target_users))

    def common_items(self, n: int) -> I64:
        """The `n` items that occur most, targets before anchors; ascending."""
        num_items = self.profiles.shape[1]
        counts = np.bincount(self.targets, minlength=num_items) + 0.5 * self.profiles.getnnz(axis=0)
        best = np.argsort(-counts, kind="stable")[:n]
        return np.sort(best[counts[best] > 0]).astype(np.int64)

    def among(self, item_rows: I64) -> HeldOutChoices:
        """The same with `item_rows` as the whole catalogue: what is not among them is neither known nor to be found."""
        place = np.full(self.profiles.shape[1], -1, np.int64)
        place[item_rows] = np.arange(len(item_rows))
        profiles = self.profiles[:, item_rows].tocsr()
        kept = (place[self.targets] >= 0) & (profiles.getnnz(axis=1)[self.target_choices] > 0)
        return HeldOutChoices(
            profiles, place[self.targets[kept]], self.target_choices[kept], self.target_users[kept]
        )  # fmt: skip

    def ndcg(self, embeddings: F32) -> F64:
        """NDCG@10 of each user, (num_users,): every item ranked by cosine with the profile, those of the profile left
        out.

        `embeddings` (n_items, embedding_size) unit rows; items with a zero row (no text) are never found.
        """
        gains = np.zeros(len(self.targets))
        step = max(1, _CELLS // max(1, self.profiles.shape[1]))
        for start in range(0, self.profiles.shape[0], step):
            inside = np.flatnonzero((self.target_choices >= start) & (self.target_choices < start + step))
            if len(inside):
                gains[inside] = self._gains(embeddings, start, step, inside)
        users, user_rows = np.unique(self.target_users, return_inverse=True)
        totals = np.bincount(user_rows, weights=gains, minlength=len(users))
        return np.asarray(totals / np.bincount(user_rows, minlength=len(users)), np.float64)

    def _gains(self, embeddings: F32, start: int, step: int, inside: I64) -> F64:
        profiles = self.profiles[start : start + step]
        scores = np.asarray(profiles @ embeddings, np.float32) @ embeddings.T
        scores[:, ~embeddings.any(axis=1)] = -np.inf
        scores[profiles.nonzero()] = -np.inf
        rows, targets = self.target_choices[inside] - start, self.targets[inside]
        own = scores[rows, targets]
        above = np.array([np.count_nonzero(scores[row] > value) for row, value in zip(rows, own, strict=True)])
        ties = np.array([np.count_nonzero(scores[row] == value) for row, value in zip(rows, own, strict=True)])
        rank = above + (ties - 1) / 2.0
        return np.where((rank < K) & (own > -np.inf), 1.0 / np.log2(rank + 2.0), 0.0)


def _newest(users: I64, newest: int) -> npt.NDArray[np.bool_]:
    """Marks the last `newest` rows of each user; rows are ordered by user and time."""
    end = np.searchsorted(users, users, side="right")
    return np.asarray(end - np.arange(len(users)) <= newest)


def _profiles(rows: I64, anchors: I64, gaps: I64, shape: tuple[int, int]) -> sp.csr_matrix:
    """Each (choice, anchor) once, with the weight of its nearest moment."""
    order = np.lexsort((gaps, anchors, rows))
    rows, anchors, gaps = rows[order], anchors[order], gaps[order]
    first = np.ones(len(rows), bool)
    first[1:] = (np.diff(rows) != 0) | (np.diff(anchors) != 0)
    weights = (0.5 ** np.maximum(gaps[first] - 1, 0)).astype(np.float32)
    return sp.csr_matrix((weights, (rows[first], anchors[first])), shape=shape)
