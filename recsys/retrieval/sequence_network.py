"""The sequence model while it is trained: a small causal transformer over items (SASRec, Kang and McAuley 2018), an
item being its text and its id together. Beside attention, or instead of it, its blocks filter the history: attention
alone learns what is a matter of how long ago too slowly (BSARec, Shin et al. 2024; FMLP-Rec, Zhou et al. 2022).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from recsys.retrieval.sequence_settings import SequenceSettings

F32 = npt.NDArray[np.float32]
_NEVER = -1e9


class Dropout:
    """Zeroes a share of a tensor's values while training and scales up the rest. `rate` is taken in steps of 1/256: a
    byte a value, drawn by numpy, costs a tenth of torch's own generator, which was a fifth of all training time.
    """

    def __init__(self, rate: float, rng: np.random.Generator) -> None:
        self._cut, self._rng = round(rate * 256), rng

    def __call__(self, x: torch.Tensor, *, training: bool) -> torch.Tensor:
        """`x` as it is where not `training`."""
        if not training or not self._cut:
            return x
        drawn = np.frombuffer(self._rng.bytes(x.numel()), np.uint8)
        factors = torch.from_numpy((drawn >= self._cut) * np.float32(256 / (256 - self._cut)))
        return x * factors.view(x.shape)


class Filter(nn.Module):
    """For each dimension a weight by how many moments ago: the mean of each of the newest moments, and of all earlier
    tokens together, counts so much. It begins as zero.
    """

    def __init__(self, size: int, gaps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(gaps, size))

    def forward(self, x: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
        """Of `x` (n, length, size) and `moments` (n, length), -1 where padded: alike for all tokens of a moment."""
        n, _, size = x.shape
        real = (moments >= 0)[..., None]
        since = (moments - moments[:, :1]).clamp(min=0).long()
        slots = int(since.max()) + 1
        place = (since + slots * torch.arange(n)[:, None]).flatten()
        sums = x.new_zeros(n * slots, size).index_add(0, place, (x * real).flatten(0, 1)).view(n, slots, size)
        counts = x.new_zeros(n * slots, 1).index_add(0, place, real.to(x.dtype).flatten(0, 1)).view(n, slots, 1)
        means = sums / counts.clamp(min=1)
        earlier = sums.cumsum(1) / counts.cumsum(1).clamp(min=1)
        last = len(self.weight) - 1
        filtered = means * self.weight[0]
        for gap in range(1, min(last + 1, slots)):
            read = earlier if gap == last else means
            filtered = filtered + functional.pad(read[:, : slots - gap] * self.weight[gap], (0, 0, gap, 0))
        return functional.embedding(place, filtered.view(-1, size)).view(x.shape)


class Attention(nn.Module):
    """To the same and earlier moments, with a learned bias for how many moments ago."""

    def __init__(self, size: int, heads: int, max_gap: int, dropout: Dropout) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(size)
        self.attend, self.joined = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.gap_bias = nn.Parameter(torch.zeros(heads, max_gap + 1))
        _begin_as_zero(self.joined)

    def forward(self, x: torch.Tensor, gaps: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """`x` (n, length, size); `gaps` (n, length, length) int64, moments between; `hidden` alike, true where not to
        look.
        """
        n, length, size = x.shape
        parts = self.attend(self.norm(x)).view(n, length, 3, self.heads, size // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # `gather`, as `embedding` below: unlike indexing, its gradient is summed in one order by any number of threads.
        bias = self.gap_bias.gather(1, gaps.reshape(1, -1).expand(self.heads, -1)).view(self.heads, n, length, length)
        bias = bias.transpose(0, 1).masked_fill(hidden[:, None], _NEVER)
        weights = (query @ key.transpose(2, 3) / math.sqrt(size // self.heads) + bias).softmax(3)
        read = self.dropout(weights, training=self.training) @ value
        return torch.as_tensor(self.joined(read.transpose(1, 2).reshape(n, length, size)))


class Block(nn.Module):
    """A filter of the history and, if asked for, attention to it, side by side; then a feed-forward layer.

    All are normalised before (pre-LN) and begin as zero: the untrained model recommends by the vectors alone.
    """

    def __init__(self, size: int, attention: Attention | None, gaps: int, dropout: Dropout) -> None:
        super().__init__()
        self.attention, self.filter, self.dropout = attention, Filter(size, gaps), dropout
        self.norm_wide = nn.LayerNorm(size)
        self.wide, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        _begin_as_zero(self.narrow)

    def forward(
        self, x: torch.Tensor, moments: torch.Tensor, between: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        """See `Filter` and `Attention`, which is asked about what is `between` the tokens."""
        read = self._dropped(self.filter(functional.layer_norm(x, x.shape[-1:]), moments))
        if self.attention is not None and between is not None:
            read = read + self._dropped(self.attention(x, *between))
        x = x + read
        inner = self._dropped(functional.gelu(self.wide(self.norm_wide(x)), approximate="tanh"))
        return x + self._dropped(self.narrow(inner))

    def _dropped(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(x, training=self.training)


def _begin_as_zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class Network(nn.Module):
    """Item vectors and blocks. `ids` (n_items, size) float32 are the id embeddings to begin with, `project` (text_size,
    size) the projection of `text` (n_items, text_size), both None without text. Without `attends` the blocks only
    filter.
    """

    def __init__(
        self,
        ids: F32,
        text: F32 | None,
        project: F32 | None,
        settings: SequenceSettings,
        rng: np.random.Generator,
        *,
        attends: bool,
    ) -> None:
        super().__init__()
        self.ids = nn.Parameter(torch.from_numpy(ids.copy()))
        self.text = None if text is None else torch.from_numpy(text)
        self.project = None if project is None else nn.Parameter(torch.from_numpy(project.copy()))
        self.dropout, self.rng = Dropout(settings.dropout, rng), rng
        self.attends, self.max_gap, size = attends, settings.max_tokens, ids.shape[1]
        self.blocks = nn.ModuleList(
            Block(
                size,
                Attention(size, settings.heads, self.max_gap, self.dropout) if attends else None,
                settings.filter_gaps,
                self.dropout,
            )
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(size)

    def vectors(self, rows: torch.Tensor, id_dropout: float = 0.0) -> torch.Tensor:
        """(m, size) of the items at `rows`. Ids are dropped now and then, so that a text learns to stand alone, as a
        new item's must (DropoutNet, Volkovs et al. 2017).
        """
        ids = functional.embedding(rows, self.ids)
        if self.text is None or self.project is None:
            return ids
        if id_dropout:
            ids = ids * torch.from_numpy(self.rng.random((len(rows), 1), np.float32) >= id_dropout)
        distinct, place = torch.unique(rows, return_inverse=True)  # texts are long and popular items many
        return ids + functional.embedding(place, self.text[distinct] @ self.project)

    def parts(self, known_rows: npt.NDArray[np.integer]) -> tuple[F32, F32]:
        """The id embeddings (n_items, size), zero for items that are not among `known_rows`, and the text's projection
        (text_size, size), of no rows without text.
        """
        known = np.zeros((len(self.ids), 1), np.float32)
        known[known_rows] = 1.0
        ids = self.ids.detach().numpy() * known
        project = np.zeros((0, ids.shape[1]), np.float32) if self.project is None else self.project.detach().numpy()
        return ids, project

    def forward(self, x: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
        """States (n, length, size) after each token; `x` the tokens' vectors, `moments` (n, length), -1 where
        padded.
        """
        between = self._between(moments) if self.attends else None
        x = self.dropout(x, training=self.training)
        for block in self.blocks:
            x = block(x, moments, between)
        return torch.as_tensor(self.norm(x))

    def _between(self, moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The moments between all pairs of tokens, (n, length, length), and true where the first must not look at the
        second.
        """
        moments = moments.int()  # half the memory to move
        gaps = moments[:, :, None] - moments[:, None, :]
        hidden = (gaps < 0) | (moments[:, None, :] < 0)
        hidden &= ~torch.eye(moments.shape[1], dtype=torch.bool)
        return gaps.clamp(0, self.max_gap).long(), hidden


def sampled_loss(
    states: torch.Tensor,
    positives: torch.Tensor,
    negatives: torch.Tensor,
    same: tuple[torch.Tensor, torch.Tensor],
    num_items: int,
) -> torch.Tensor:
    """Mean sampled softmax loss of `states` (n, size) for `positives` (n, size) against `negatives` (k, size) drawn
    evenly from `num_items`, shared by the batch; `same`, rows of `states` and of `negatives`, are the negatives that
    are the positive itself. log(num_items / k) added to a negative's logit makes the sum an unbiased estimate of the
    full one (Bengio and Senecal 2008).
    """
    right = (states * positives).sum(1)
    others = states @ negatives.T
    others[same] = _NEVER
    total = torch.logaddexp(right, others.logsumexp(1) + math.log(num_items / len(negatives)))
    return torch.as_tensor((total - right).mean())
