"""What a batch of contrastive training is judged by.

The loss is the in-batch softmax (InfoNCE, van den Oord et al. 2018) in both directions with the logQ correction of
sampled softmax (Bengio & Senecal 2008; Yi et al. 2019): popular items fill the batches, so their scores are lowered
by the log of how often they occur, in training only. It asks which item goes with another one, with a short history,
or both; adversarial training asks again with the embeddings moved a little where it hurts most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features.batches import Batch, NextChoices

if TYPE_CHECKING:
    import torch

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, and its parts.

    `log_shares` (n_items,) float32: the log of how often each item is sampled (zeros: no correction).
    `history_share`: the share of `history_loss`, the rest being `pair_loss`. `adversarial_size`: the length of the
    perturbation, 0 for none. `item_vectors` (n_items, d) float32 unit rows or zero: what behaviour makes of the items;
    `alignment` is the weight of `alignment_loss`.
    """

    log_shares: F32
    temperature: float
    symmetric: bool = True
    history_share: float = 0.0
    adversarial_size: float = 0.0
    item_vectors: F32 | None = None
    alignment: float = 0.0

    def loss(self, vectors: torch.Tensor, batch: Batch) -> torch.Tensor:
        """`vectors` (m, embedding_size): unit rows of the batch's items, with gradients."""
        loss = self._plain(vectors, batch)
        if self.adversarial_size:
            moved = perturbed(vectors, loss, self.adversarial_size)
            loss = (loss + self._plain(moved, batch)) / 2
        return loss

    def _plain(self, vectors: torch.Tensor, batch: Batch) -> torch.Tensor:
        import torch

        shares = torch.from_numpy(self.log_shares[batch.items])
        loss = vectors.new_zeros(())
        if self.history_share < 1:
            places = torch.from_numpy(batch.anchors), torch.from_numpy(batch.positives)
            known = None if batch.known is None else torch.from_numpy(batch.known)
            pairs = pair_loss(vectors, *places, shares, self.temperature, symmetric=self.symmetric, known=known)
            loss = loss + (1 - self.history_share) * pairs
        if self.history_share:
            choices = NextChoices.of(batch)
            histories = history_loss(vectors, choices, shares, self.temperature, symmetric=self.symmetric)
            loss = loss + self.history_share * histories
        if self.alignment and self.item_vectors is not None:
            behaviour = torch.from_numpy(self.item_vectors[batch.items])
            loss = loss + self.alignment * alignment_loss(vectors, behaviour, self.temperature)
        return loss


def pair_loss(
    vectors: torch.Tensor,
    anchors: torch.Tensor,
    positives: torch.Tensor,
    log_shares: torch.Tensor,
    temperature: float,
    *,
    symmetric: bool = True,
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy of the question which of the batch's items goes with this one; `symmetric`: the mean of both
    directions, else from the anchor to the positive.

    `vectors` (m, embedding_size) unit rows of the batch's different items; `anchors`, `positives` (n,) places among
    them; `log_shares` (m,). An item is no negative of itself, nor of another item that it makes a pair with, nor where
    `known` (n, m) says so.
    """
    import torch

    scores = vectors @ vectors.T / temperature - log_shares
    friends = torch.eye(len(vectors), dtype=torch.bool)
    friends[anchors, positives] = True
    friends[positives, anchors] = True
    pair_numbers = torch.arange(len(anchors))
    directions = [(anchors, positives), (positives, anchors)] if symmetric else [(anchors, positives)]
    loss = vectors.new_zeros(())
    for ours, theirs in directions:
        left_out = friends[ours] if known is None else friends[ours] | known
        left_out[pair_numbers, theirs] = False
        loss = loss + torch.nn.functional.cross_entropy(
            scores.index_select(0, ours).masked_fill(left_out, -torch.inf), theirs
        )
    return loss / len(directions)


def history_loss(
    vectors: torch.Tensor, choices: NextChoices, log_shares: torch.Tensor, temperature: float, *, symmetric: bool = True
) -> torch.Tensor:
    """Cross entropy of the question which of the batch's items came after this history, by cosine to the history's
    weighted mean; `symmetric`: the mean of that and of which of the batch's histories came before this item.

    `vectors` (m, embedding_size) unit rows; `log_shares` (m,). Histories that leave an item out, or that it came after
    as well, are no negatives of it.
    """
    import torch

    positives, left_out = torch.from_numpy(choices.positives), torch.from_numpy(choices.left_out)
    profiles = torch.nn.functional.normalize(torch.from_numpy(choices.weights) @ vectors, dim=1)
    scores = profiles @ vectors.T / temperature
    forward = torch.nn.functional.cross_entropy((scores - log_shares).masked_fill(left_out, -torch.inf), positives)
    if not symmetric:
        return forward
    numbers = torch.arange(len(positives))
    no_negative = left_out.T[positives] | (positives[:, None] == positives)
    no_negative[numbers, numbers] = False
    backward = torch.nn.functional.cross_entropy(
        scores.T.index_select(0, positives).masked_fill(no_negative, -torch.inf), numbers
    )
    return (forward + backward) / 2


def alignment_loss(vectors: torch.Tensor, behaviour: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross entropy between which items of the batch are alike by text and by behaviour (relational distillation,
    Park et al. 2019): no common space is needed.

    `vectors` (m, embedding_size) and `behaviour` (m, d): unit rows; zero rows of `behaviour` take no part.
    """
    import torch

    usable = behaviour.any(dim=1)
    if int(usable.sum()) < 3:
        return vectors.new_zeros(())
    ours, theirs = vectors[usable], behaviour[usable]
    itself = torch.eye(len(ours), dtype=torch.bool)
    wanted = (theirs @ theirs.T / temperature).masked_fill(itself, -torch.inf).softmax(dim=1)
    got = (ours @ ours.T / temperature).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    return -(wanted * got.masked_fill(itself, 0.0)).sum(dim=1).mean()


def perturbed(vectors: torch.Tensor, loss: torch.Tensor, size: float) -> torch.Tensor:
    """The unit rows `vectors`, each moved by `size` along the gradient of `loss` and made a unit row again (fast
    gradient method: Miyato et al. 2017; on recommenders' embeddings: He et al. 2018).
    """
    import torch

    (gradient,) = torch.autograd.grad(loss, vectors, retain_graph=True)
    away = torch.nn.functional.normalize(gradient, dim=1)
    return torch.nn.functional.normalize(vectors + size * away, dim=1)
