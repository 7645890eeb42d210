"""Fitting the sequence model: epochs over all sequences with a sinking learning rate. Held-out users' last moments say
where it has begun to learn by heart.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from features.seeds import member_seed
from recsys.comparison import Difference
from recsys.metrics import Floats, mean, ndcg_at_k
from recsys.retrieval.base import FitData
from recsys.retrieval.best import best_of
from recsys.retrieval.item_vectors import co_occurrence_vectors, ridge
from recsys.retrieval.sequence_network import Network, sampled_loss
from recsys.retrieval.sequence_settings import SequenceSettings
from recsys.retrieval.sequences import Batch, Sequences, batches
from recsys.threads import limit_threads

logger = logging.getLogger(__name__)
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
_CLEARLY = 2.0
"""Standard errors by which earlier weights must be better to be taken for the last ones."""
_FEWEST_USERS = 10
"""Of fewer the standard error says nothing."""


@dataclass(frozen=True)
class _HeldOut:
    """Users whose last moment is not trained on: their sequences up to it, and its items."""

    sequences: Sequences
    answers: list[I64]


@dataclass(frozen=True)
class _Begun:
    """A network that training is to change, what it is trained and judged on, the generator that it alone draws from,
    and what ends the training early.
    """

    network: Network
    training: Sequences
    held_out: _HeldOut
    known: I64
    rng: np.random.Generator
    stop: Event


def fit_networks(data: FitData, settings: SequenceSettings) -> list[Network]:
    """The models of different seeds; none where no user acted in two moments. Each is trained by one thread, and as
    many side by side as there are threads: within products as small as theirs more threads save nothing. So they are
    the same by any number of threads; the memory of training is that of all that are trained at one time.
    """
    sequences = Sequences.of(data)
    if not len(sequences):
        return []
    seeds = [member_seed(data.seed, number) for number in range(settings.models)]
    stop = Event()
    with limit_threads(1), ThreadPoolExecutor(data.num_threads) as pool:
        # Not side by side: torch's own generator, which draws the first weights, is one for all threads.
        begun = [
            _begun(sequences, data, settings, seed, stop, attends=number < settings.attending[0])
            for number, seed in enumerate(seeds)
        ]
        try:
            return list(pool.map(lambda one: _trained(one, settings), begun))
        except BaseException:  # such as Ctrl-C: the pool waits for what is running
            stop.set()
            raise


def _begun(
    sequences: Sequences, data: FitData, settings: SequenceSettings, seed: int, stop: Event, *, attends: bool
) -> _Begun:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    training, held_out = _split(sequences, settings, rng)
    known = np.unique(data.matrix.indices).astype(np.int64)
    network = _untrained(data, settings, known, rng, attends=attends)
    return _Begun(network, training, held_out, known, rng, stop)


def _trained(begun: _Begun, settings: SequenceSettings) -> Network:
    """The network after all epochs, or as it was before where that was clearly better."""
    network, held_out, known = begun.network, begun.held_out, begun.known
    epochs = max(1, min(settings.epochs, settings.max_trained_tokens // max(len(begun.training.item_rows), 1)))
    optimizer = _optimizer(network, settings)
    base = [group["lr"] for group in optimizer.param_groups]
    checks = {math.ceil(epochs * k / settings.checks) for k in range(settings.checks)}
    best = Checked.of(network, held_out, known)
    for epoch in range(1, epochs + 1):
        loss = _epoch(begun, optimizer, settings)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * max(0.02, (1 + math.cos(math.pi * epoch / epochs)) / 2)
        if epoch in checks and epoch < epochs:
            now = Checked.of(network, held_out, known)
            logger.debug("sequence: epoch %d of %d, loss %.3f, held-out NDCG@10 %.4f", epoch, epochs, loss, now.mean)
            best = max(best, now, key=lambda checked: checked.mean)
    if best.beats(_ndcg(network, held_out, known)):
        network.load_state_dict(best.state)
    return network.eval()


@dataclass(frozen=True)
class Checked:
    """The network's weights at one time and NDCG@10 of each held-out user, (n_users,)."""

    state: Mapping[str, torch.Tensor]
    ndcg: Floats

    @classmethod
    def of(cls, network: Network, held_out: _HeldOut, known: I64) -> Self:
        """As the network is now."""
        return cls(copy.deepcopy(network.state_dict()), _ndcg(network, held_out, known))

    @property
    def mean(self) -> float:
        """Of all held-out users; NaN where there are none."""
        return mean(self.ndcg)

    def beats(self, last: Floats) -> bool:
        """Whether it is clearly better than `last` (n_users,). It was the best of several by few users, and the
        learning rate has sunk since: where it only looks better, the last weights are.
        """
        gain = Difference.of(self.ndcg, last, np.arange(len(last)))
        return len(last) >= _FEWEST_USERS and gain.mean > _CLEARLY * gain.error


def _split(sequences: Sequences, settings: SequenceSettings, rng: np.random.Generator) -> tuple[Sequences, _HeldOut]:
    """The sequences to train on, with held-out users' up to their last moment, and those users with it."""
    count = min(settings.max_held_out, round(settings.share_held_out * len(sequences)))
    chosen = np.sort(rng.permutation(len(sequences))[:count])
    rest = np.setdiff1d(np.arange(len(sequences)), chosen)
    whole = sequences.at(chosen)
    asked = whole.without_last_moment()
    answers = []
    for row in range(len(whole)):
        span = slice(whole.indptr[row], whole.indptr[row + 1])
        answers.append(whole.item_rows[span][whole.moments[span] == whole.moments[span][-1]])
    return Sequences.joined(sequences.at(rest), asked), _HeldOut(asked, answers)


def _untrained(
    data: FitData, settings: SequenceSettings, known: I64, rng: np.random.Generator, *, attends: bool
) -> Network:
    """Vectors from co-occurrence; with text, its projection to them and what that leaves over."""
    ids = co_occurrence_vectors(data.matrix, settings.size, rng)
    project, text = None, data.plain_texts
    if text is not None:
        project = ridge(text, ids, known)
        ids[known] -= text[known] @ project
    return Network(ids, text, project, settings, rng, attends=attends)


def _optimizer(network: Network, settings: SequenceSettings) -> torch.optim.Optimizer:
    others = [value for name, value in network.named_parameters() if name != "ids"]
    groups = [
        {"params": [network.ids], "lr": settings.id_learning_rate},
        {"params": others, "lr": settings.learning_rate},
    ]
    return torch.optim.Adam(groups)


def _epoch(begun: _Begun, optimizer: torch.optim.Optimizer, settings: SequenceSettings) -> float:
    """One pass; the mean loss. CancelledError where training is to stop."""
    network, known, rng = begun.network, begun.known, begun.rng
    network.train()
    total, count = 0.0, 0
    for batch in batches(begun.training, settings.max_tokens, settings.batch_tokens, rng):
        if begun.stop.is_set():
            raise CancelledError
        if not (batch.targets >= 0).any():
            continue
        drawn = rng.choice(known, min(settings.negatives, len(known)), replace=False)
        loss = _loss(network, batch, drawn, len(known), settings.id_dropout)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        asked = int((batch.targets >= 0).sum())
        total += float(loss.detach()) * asked
        count += asked
    return total / max(count, 1)


def _loss(network: Network, batch: Batch, drawn: I64, num_items: int, id_dropout: float) -> torch.Tensor:
    asked = np.flatnonzero(batch.targets.ravel() >= 0)
    wanted = batch.targets.ravel()[asked]
    rows = torch.from_numpy(np.concatenate([batch.items.ravel(), wanted, drawn]))
    parts = [batch.items.size, len(wanted), len(drawn)]
    tokens, positives, negatives = torch.split(network.vectors(rows, id_dropout), parts)
    states = network(tokens.view(*batch.items.shape, -1), torch.from_numpy(batch.moments)).flatten(0, 1)
    same = same_places(wanted, drawn)
    return sampled_loss(states[torch.from_numpy(asked)], positives, negatives, same, num_items)


def same_places(wanted: I64, drawn: I64) -> tuple[torch.Tensor, torch.Tensor]:
    """The places at which items of `wanted` and of `drawn`, which holds none twice, are the same."""
    order = np.argsort(drawn)
    place = np.minimum(np.searchsorted(drawn, wanted, sorter=order), len(drawn) - 1)
    rows = np.flatnonzero(drawn[order[place]] == wanted)
    return torch.from_numpy(rows), torch.from_numpy(order[place[rows]])


def _ndcg(network: Network, held_out: _HeldOut, known: I64) -> Floats:
    """NDCG@10 of each held-out user over the known items that are new to it."""
    network.eval()
    with torch.no_grad():
        vectors = network.vectors(torch.from_numpy(known))
        return np.array([
            _ndcg_of(network, vectors, known, held_out.sequences.at(np.array([row])), answers)
            for row, answers in enumerate(held_out.answers)
        ])  # fmt: skip


def _ndcg_of(network: Network, vectors: torch.Tensor, known: I64, asked: Sequences, answers: I64) -> float:
    rows, moments = asked.item_rows[-network.max_gap :], asked.moments[-network.max_gap :]
    states = network(network.vectors(torch.from_numpy(rows))[None], torch.from_numpy(moments)[None])[0]
    state = states[torch.from_numpy(moments == moments[-1])].mean(0)
    scores = (vectors @ state).numpy()
    scores[np.isin(known, asked.item_rows)] = -np.inf
    best = best_of(scores, np.arange(len(scores)), 10, -np.inf)
    hits = np.isin(known[best], answers)[None]
    return float(ndcg_at_k(hits, np.array([len(answers)]), 10)[0])
