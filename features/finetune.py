"""Contrastive fine-tuning of the text encoder on behaviour, judged on users that it has not seen.

First a projection after the pooling is trained: that costs seconds, because the items are read only once. Then, if
`trainable` says so, layers of the BERT model follow. Half of the held-out users choose when to stop, and whether the
layers were clearly for the worse; the other half give the verdict, and where that is not clearly for the tuned encoder,
the pretrained one is kept.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from features.batches import log_shares
from features.blended_encoder import BlendedEncoder, blend
from features.contrastive import Schedule, train
from features.encoder import TextEncoder, torch_threads
from features.finetune_data import Aids, FinetuneData
from features.finetune_settings import FinetuneSettings
from features.held_out import HeldOutChoices, K
from features.losses import Objective
from features.next_items import NextItemPairs, next_item_pairs
from features.teacher import Teacher
from features.towers import FullTower, LastLayersTower, LoraTower, ModelTower, ProjectionTower

__all__ = ["FinetuneResult", "FinetuneSettings", "NextItemPairs", "finetune", "next_item_pairs"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_SAMPLE_ITEMS = 400  # the catalogue on which layer training looks for its best step: 1-2 seconds an evaluation
_CLEARLY = 2.0
"""Standard errors by which the projection must be better alone. Some hundred users hardly see what the layers are for:
items that nobody has touched yet.
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneResult:
    """The encoder to use, and why. Scores are NDCG@10 of held-out users' next items among all items, by cosine to the
    recency-weighted profile of the moments before (None: not measured); `gain_error` is the standard error of their
    difference. `pretrained_share` is that of the pretrained encoder in a blend, 0 for none.
    """

    encoder: TextEncoder | BlendedEncoder = field(repr=False)
    kept: Literal["fine-tuned", "pretrained"]
    reason: str
    pretrained_score: float | None
    finetuned_score: float | None
    gain_error: float | None
    stage: str
    num_pairs: int
    num_held_out_users: int
    steps: int
    seconds: float
    pretrained_share: float = 0.0


@dataclass(frozen=True)
class _Candidate:
    """A trained stage: its name, embeddings (n_texts, embedding_size), steps, NDCG@10 of each validation user, and the
    share of the pretrained embeddings to be blended in.
    """

    name: str
    encoder: Callable[[], TextEncoder]
    embeddings: F32
    steps: int
    validation: F64
    pretrained_share: float = 0.0

    def blended(self, pretrained: F32) -> F32:
        """The embeddings that are judged: (n_texts, embedding_size), or twice as wide with the pretrained ones."""
        return blend(self.embeddings, pretrained, self.pretrained_share) if self.pretrained_share else self.embeddings


def finetune(
    encoder: TextEncoder,
    texts: Sequence[str],
    pairs: NextItemPairs,
    settings: FinetuneSettings | None = None,
    seed: int = 0,
    *,
    num_threads: int | None = None,
    fields: Sequence[Sequence[str]] | None = None,
    teacher: Teacher | None = None,
) -> FinetuneResult:
    """Train a copy of `encoder` so that items that users choose one after the other come close; keep it where it
    proves better.

    `texts` has one text an item, `pairs` are rows into it, from what was known when training (`next_item_pairs`). One
    seed and one thread count give the same weights. Data that are too few for training or for judging keep the
    pretrained encoder and say so in `reason`. `encoder` is not changed. The embeddings of `texts` by the kept encoder
    are remembered: `encode` is quick.

    `fields` are the texts' parts in reading order, for `augmentation` (None: a text is one field). `teacher` is needed
    where the settings ask for hard negatives or for alignment (SettingsError).
    """
    settings = settings or FinetuneSettings()
    started = time.monotonic()
    data = FinetuneData.of(encoder, texts, pairs, settings, seed)
    reason = data.too_little() if settings.enabled else "fine-tuning is switched off"
    if reason:
        log.info("keeping the pretrained encoder: %s", reason)
        return FinetuneResult(
            encoder, "pretrained", reason, None, None, None, "none", len(data.train), data.verdict.num_users, 0,
            time.monotonic() - started,
        )  # fmt: skip
    with torch_threads(num_threads):
        pretrained, candidate = _train_stages(data, Aids.of(data, teacher, fields))
        return _judge(data, pretrained, candidate, started)


def _train_stages(data: FinetuneData, aids: Aids) -> tuple[F32, _Candidate]:
    """The pretrained embeddings (n_texts, embedding_size), and what was trained: the layers, where there are any to
    train, unless the projection is clearly better alone.
    """
    tower = _layer_tower(data, aids)
    if isinstance(tower, LastLayersTower) and not data.encoder.knows(data.texts):
        # reads every text once, and keeps the frozen layers' states for training
        pretrained = tower.embed_all(data.rows)
    else:
        pretrained = data.encoder.encode(data.texts)
    data.encoder.remember(data.texts, pretrained)
    best = _train_projection(data, aids, pretrained)
    if tower is not None:
        tower.start_from(best.encoder().projection)
        tuned = _train_layers(data, aids, tower, best.steps)
        loss = best.validation - tuned.validation
        best = best if loss.mean() > _CLEARLY * _error(loss) else tuned
    return pretrained, dataclasses.replace(best, pretrained_share=data.settings.keep_pretrained)


def _layer_tower(data: FinetuneData, aids: Aids) -> ModelTower | None:
    """What trains the layers that the settings name; None where they name none."""
    tower = _plain_tower(data)
    if tower is not None and aids.augmenter is not None:
        tower.alter_with(aids.augmenter)
    return tower


def _plain_tower(data: FinetuneData) -> ModelTower | None:
    settings = data.settings
    if settings.trainable == "projection" or not settings.max_steps:
        return None
    tokens = data.encoder.tokenize(data.texts)
    if settings.trainable == "last_layers":
        return LastLayersTower(data.encoder, tokens, settings.num_layers, settings.hidden_cache_mb * 2**20)
    if settings.trainable == "full":
        return FullTower(data.encoder, tokens)
    return LoraTower(data.encoder, tokens, data.seed)


def _train_projection(data: FinetuneData, aids: Aids, pretrained: F32) -> _Candidate:
    """The cheap stage; every evaluation ranks the whole catalogue."""
    tower = ProjectionTower(data.encoder, pretrained)
    settings = data.settings
    schedule = _schedule(settings, settings.projection_steps, settings.projection_learning_rate, accumulation=1)

    def score() -> float:
        return _mean(data.validation, tower.embed_all(data.rows))

    log.info("training a projection on %d pairs of %d texts", len(data.train), len(data.texts))
    rng = np.random.default_rng([data.seed, 2])
    outcome = train(tower, data.train, _objective(data, aids), schedule, rng, score, aids.hard)
    embeddings = tower.embed_all(data.rows)
    return _Candidate("projection", tower.encoder, embeddings, outcome.steps, data.validation.ndcg(embeddings))


def _train_layers(data: FinetuneData, aids: Aids, tower: ModelTower, steps_before: int) -> _Candidate:
    """The costly stage, from the projection on. Evaluations rank a part of the catalogue."""
    settings = data.settings
    rows = data.validation.common_items(_SAMPLE_ITEMS)
    sample = data.validation.among(rows)
    schedule = _schedule(settings, settings.max_steps, settings.learning_rate, settings.gradient_accumulation)

    def score() -> float:
        return _mean(sample, tower.embed_all(rows))

    log.info("training %s of the model", settings.trainable.replace("_", " "))
    rng = np.random.default_rng([data.seed, 3])
    outcome = train(tower, data.train, _objective(data, aids), schedule, rng, score, aids.hard, may_stay=False)
    embeddings = tower.embed_all(data.rows)
    steps = steps_before + outcome.steps
    return _Candidate(settings.trainable, tower.encoder, embeddings, steps, data.validation.ndcg(embeddings))


def _schedule(settings: FinetuneSettings, steps: int, learning_rate: float, accumulation: int) -> Schedule:
    return Schedule(
        steps=steps, batch_size=settings.batch_size, learning_rate=learning_rate, accumulation=accumulation,
        warmup_share=settings.warmup_share, patience=settings.patience, evaluations=settings.evaluations,
        averaging=settings.weight_averaging,
    )  # fmt: skip


def _objective(data: FinetuneData, aids: Aids) -> Objective:
    settings, num_texts = data.settings, len(data.texts)
    corrected = settings.popularity_correction
    return Objective(
        log_shares(data.train, num_texts, aids.hard) if corrected else np.zeros(num_texts, np.float32),
        settings.temperature, settings.symmetric, settings.history_share, settings.adversarial_size, aids.item_vectors,
        settings.behaviour_alignment,
    )  # fmt: skip


def _mean(choices: HeldOutChoices, embeddings: F32) -> float:
    return float(choices.ndcg(embeddings).mean()) if choices.num_users else 0.0


def _error(differences: F64) -> float:
    """The standard error of their mean."""
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))


def _judge(data: FinetuneData, pretrained: F32, candidate: _Candidate, started: float) -> FinetuneResult:
    """The tuned encoder where the verdict users' NDCG@10 rises by more than the rise's standard error, else the
    pretrained one.
    """
    before, after = data.verdict.ndcg(pretrained), data.verdict.ndcg(candidate.blended(pretrained))
    gain = after - before
    error = _error(gain)
    better = float(gain.mean()) > error
    figures = f"{after.mean():.4f} after, {before.mean():.4f} before, the difference +- {error:.4f}"
    reason = f"NDCG@{K} of {len(gain)} held-out users: {figures}" + ("" if better else ": not clearly better")
    encoder: TextEncoder | BlendedEncoder = _finished(data, candidate) if better else data.encoder
    log.info("keeping the %s encoder (%s): %s", "fine-tuned" if better else "pretrained", candidate.name, reason)
    return FinetuneResult(
        encoder, "fine-tuned" if better else "pretrained", reason, float(before.mean()), float(after.mean()), error,
        candidate.name, len(data.train), len(gain), candidate.steps, time.monotonic() - started,
        candidate.pretrained_share if better else 0.0,
    )  # fmt: skip


def _finished(data: FinetuneData, candidate: _Candidate) -> TextEncoder | BlendedEncoder:
    """The candidate as an encoder that remembers the texts."""
    encoder = candidate.encoder()
    encoder.remember(data.texts, candidate.embeddings)
    share = candidate.pretrained_share
    return BlendedEncoder(encoder, data.encoder, share) if share else encoder
