"""Contrastive fine-tuning of the text encoder on behaviour, judged on users that it has not seen.

First a projection after the pooling is trained: that costs seconds, because the items are read only once. Then, if
`trainable` says so, layers of the BERT model follow. Half of the held-out users choose when to stop and which stage
to take; the other half give the verdict, and where that is not clearly for the tuned encoder, the pretrained one is
kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.contrastive import Schedule, log_shares, run_starts, train
from features.encoder import TextEncoder, torch_threads
from features.held_out import HeldOutChoices, K
from features.next_items import NextItemPairs, next_item_pairs
from features.settings import Settings
from features.towers import FullTower, LastLayersTower, LoraTower, ModelTower, ProjectionTower

__all__ = ["FinetuneResult", "FinetuneSettings", "NextItemPairs", "finetune", "next_item_pairs"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
_MIN_ITEMS, _MIN_HELD_OUT_USERS, _MAX_HELD_OUT_USERS = 10, 10, 2000
_SAMPLE_ITEMS = 400  # the catalogue on which layer training looks for its best step: 1-2 seconds an evaluation

log = logging.getLogger(__name__)


class FinetuneSettings(Settings):
    """How much the encoder learns from behaviour, and what of it."""

    enabled: bool = True
    trainable: Literal["projection", "last_layers", "full", "lora"] = "last_layers"
    """What is trained after the projection: nothing, the last layers, all layers, or LoRA adapters (needs peft)."""
    num_layers: int = Field(default=2, ge=1)
    """The layers that `last_layers` trains; those below are run once an item."""
    projection_steps: int = Field(default=600, ge=0)
    """Most optimizer steps of the projection; 13 ms each."""
    projection_learning_rate: float = Field(default=2e-3, gt=0)
    max_steps: int = Field(default=20, ge=0)
    """Most optimizer steps of the model's layers; 2.8 core seconds each with the default encoder and 64 tokens."""
    learning_rate: float = Field(default=5e-5, gt=0)
    max_pairs: int = Field(default=200_000, ge=1)
    """Pairs used at most, drawn at random from all users; bounds the time of an epoch and memory."""
    batch_size: int = Field(default=128, ge=3)
    """Different items a batch; each of them stands against all others."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches an optimizer step, for the model's layers."""
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    temperature: float = Field(default=0.1, gt=0)
    popularity_correction: bool = True
    """Lower the training scores by the log of how often an item is sampled (logQ)."""
    share_held_out: float = Field(default=0.15, gt=0, lt=1)
    """Share of users that judge; at most 2,000 of them."""
    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without a better score after which training stops."""
    evaluations: int = Field(default=5, ge=1)
    """Evaluations spread over the full number of steps of a stage."""
    min_pairs: int = Field(default=200, ge=1)
    """With fewer training pairs the pretrained encoder is kept."""
    hidden_cache_mb: int = Field(default=2048, ge=0)
    """Memory for the frozen layers' hidden states; 100 kB an item of 64 tokens."""


@dataclass(frozen=True)
class FinetuneResult:
    """The encoder to use, and why. Scores are NDCG@10 of held-out users' next items among all items, by cosine to the
    recency-weighted profile of the moments before (None: not measured); `gain_error` is the standard error of their
    difference.
    """

    encoder: TextEncoder = field(repr=False)
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


@dataclass(frozen=True)
class _Data:
    """What training and judging work on. A row is a different text, `texts` (n_texts,) cleaned: items of one text are
    one.
    """

    encoder: TextEncoder
    texts: list[str]
    train: NextItemPairs
    validation: HeldOutChoices
    verdict: HeldOutChoices
    settings: FinetuneSettings
    seed: int


@dataclass(frozen=True)
class _Candidate:
    """A trained stage: its name, embeddings (n_texts, embedding_size), steps, score on the validation users."""

    name: str
    encoder: Callable[[], TextEncoder]
    embeddings: F32
    steps: int
    validation_score: float


def finetune(
    encoder: TextEncoder,
    texts: Sequence[str],
    pairs: NextItemPairs,
    settings: FinetuneSettings | None = None,
    seed: int = 0,
    *,
    num_threads: int | None = None,
) -> FinetuneResult:
    """Train a copy of `encoder` so that items that users choose one after the other come close; keep it where it
    proves better.

    `texts` has one text an item, `pairs` are rows into it, from what was known when training (`next_item_pairs`). One
    seed and one thread count give the same weights. Data that are too few for training or for judging keep the
    pretrained encoder and say so in `reason`. `encoder` is not changed. The embeddings of `texts` by the kept encoder
    are remembered: `encode` is quick.
    """
    settings = settings or FinetuneSettings()
    started = time.monotonic()
    data = _prepare(encoder, texts, pairs, settings, seed)
    reason = _too_little(data) if settings.enabled else "fine-tuning is switched off"
    if reason:
        log.info("keeping the pretrained encoder: %s", reason)
        return FinetuneResult(
            encoder, "pretrained", reason, None, None, None, "none", len(data.train), data.verdict.num_users, 0,
            time.monotonic() - started,
        )  # fmt: skip
    with torch_threads(num_threads):
        pretrained, candidate = _train_stages(data)
        return _judge(data, pretrained, candidate, started)


def _prepare(
    encoder: TextEncoder, texts: Sequence[str], pairs: NextItemPairs, settings: FinetuneSettings, seed: int
) -> _Data:
    """Clean the texts, number the different ones, split the users."""
    cleaned = [encoder.clean(text) for text in texts]
    distinct = list(dict.fromkeys(text for text in cleaned if text))
    places = {text: place for place, text in enumerate(distinct)}
    usable = _between_texts(pairs, np.array([places.get(text, -1) for text in cleaned], np.int64))
    rng = np.random.default_rng([seed, 1])
    users = rng.permutation(np.unique(usable.user_rows))
    num_held_out = min(_MAX_HELD_OUT_USERS, int(len(users) * settings.share_held_out))
    halves = users[: num_held_out // 2], users[num_held_out // 2 : num_held_out]
    validation, verdict = (
        HeldOutChoices.build(usable.select(np.isin(usable.user_rows, half)), len(distinct)) for half in halves
    )
    train_pairs = usable.select(~np.isin(usable.user_rows, users[:num_held_out]))
    return _Data(
        encoder, distinct, _sample(train_pairs, settings.max_pairs, rng), validation, verdict, settings, seed
    )  # fmt: skip


def _between_texts(pairs: NextItemPairs, places: I64) -> NextItemPairs:
    """The pairs as rows of different texts; `places` (n_items,) is each item's text, -1 for none."""
    anchors, positives = places[pairs.anchor_rows], places[pairs.positive_rows]
    usable = (anchors >= 0) & (positives >= 0) & (anchors != positives)
    renamed = NextItemPairs(anchors, positives, pairs.user_rows, pairs.gaps, pairs.moments)
    return renamed.select(usable)


def _sample(pairs: NextItemPairs, max_pairs: int, rng: np.random.Generator) -> NextItemPairs:
    """At most about `max_pairs`, in whole runs of a user, in their old order."""
    if len(pairs) <= max_pairs:
        return pairs
    starts = run_starts(pairs)
    lengths = np.diff(np.append(starts, len(pairs)))
    order = rng.permutation(len(starts))
    chosen = np.zeros(len(starts), bool)
    chosen[order[np.cumsum(lengths[order]) <= max_pairs]] = True
    return pairs.select(np.repeat(chosen, lengths))


def _too_little(data: _Data) -> str:
    """Why training or judging is impossible; "" where it isn't."""
    num_items = len(np.union1d(data.train.anchor_rows, data.train.positive_rows))
    if not data.texts:
        return "no item has a text"
    if len(data.train) < data.settings.min_pairs or num_items < _MIN_ITEMS:
        return (
            f"{len(data.train)} pairs of {num_items} items with different texts to train on, fewer than "
            f"{data.settings.min_pairs} pairs of {_MIN_ITEMS} items"
        )
    held_out = min(data.validation.num_users, data.verdict.num_users)
    if held_out < _MIN_HELD_OUT_USERS:
        return f"{held_out} held-out users can judge, fewer than {_MIN_HELD_OUT_USERS}"
    return ""


def _train_stages(data: _Data) -> tuple[F32, _Candidate]:
    """The pretrained embeddings (n_texts, embedding_size) and the stage that the validation users like best."""
    rows = np.arange(len(data.texts))
    tower = _layer_tower(data)
    if isinstance(tower, LastLayersTower) and not data.encoder.knows(data.texts):
        pretrained = tower.embed_all(rows)  # reads every text once, and keeps the frozen layers' states for training
    else:
        pretrained = data.encoder.encode(data.texts)
    data.encoder.remember(data.texts, pretrained)
    best = _train_projection(data, pretrained)
    if tower is not None:
        tower.start_from(best.encoder().projection)
        tuned = _train_layers(data, tower, best.steps)
        best = tuned if tuned is not None and tuned.validation_score > best.validation_score else best
    return pretrained, best


def _layer_tower(data: _Data) -> ModelTower | None:
    settings = data.settings
    if settings.trainable == "projection" or not settings.max_steps:
        return None
    tokens = data.encoder.tokenize(data.texts)
    if settings.trainable == "last_layers":
        tower = LastLayersTower(data.encoder, tokens, settings.num_layers, settings.hidden_cache_mb * 2**20)
        if tower.holds_all(np.arange(len(data.texts))):
            return tower
        log.info("training no layers: the frozen states of %d texts exceed finetune.hidden_cache_mb", len(data.texts))
        return None
    if settings.trainable == "full":
        return FullTower(data.encoder, tokens)
    return LoraTower(data.encoder, tokens, data.seed)


def _train_projection(data: _Data, pretrained: F32) -> _Candidate:
    """The cheap stage; every evaluation ranks the whole catalogue."""
    tower = ProjectionTower(data.encoder, pretrained)
    rows = np.arange(len(data.texts))
    settings = data.settings
    schedule = _schedule(settings, settings.projection_steps, settings.projection_learning_rate, accumulation=1)

    def score() -> float:
        return _mean(data.validation, tower.embed_all(rows))

    log.info("training a projection on %d pairs of %d texts", len(data.train), len(data.texts))
    outcome = train(tower, data.train, _log_shares(data), schedule, np.random.default_rng([data.seed, 2]), score)
    return _Candidate("projection", tower.encoder, tower.embed_all(rows), outcome.steps, outcome.best_score)


def _train_layers(data: _Data, tower: ModelTower, steps_before: int) -> _Candidate | None:
    """The costly stage, from the projection on; None where no step was better. Evaluations rank a part of the
    catalogue.
    """
    settings = data.settings
    rows = data.validation.common_items(_SAMPLE_ITEMS)
    sample = data.validation.among(rows)
    schedule = _schedule(settings, settings.max_steps, settings.learning_rate, settings.gradient_accumulation)

    def score() -> float:
        return _mean(sample, tower.embed_all(rows))

    log.info("training %s of the model", settings.trainable.replace("_", " "))
    outcome = train(tower, data.train, _log_shares(data), schedule, np.random.default_rng([data.seed, 3]), score)
    if not outcome.best_step:
        return None
    embeddings = tower.embed_all(np.arange(len(data.texts)))
    steps = steps_before + outcome.steps
    return _Candidate(settings.trainable, tower.encoder, embeddings, steps, _mean(data.validation, embeddings))


def _schedule(settings: FinetuneSettings, steps: int, learning_rate: float, accumulation: int) -> Schedule:
    return Schedule(
        steps=steps, batch_size=settings.batch_size, learning_rate=learning_rate, accumulation=accumulation,
        warmup_share=settings.warmup_share, temperature=settings.temperature, patience=settings.patience,
        evaluations=settings.evaluations,
    )  # fmt: skip


def _log_shares(data: _Data) -> F32:
    if not data.settings.popularity_correction:
        return np.zeros(len(data.texts), np.float32)
    return log_shares(data.train, len(data.texts))


def _mean(choices: HeldOutChoices, embeddings: F32) -> float:
    return float(choices.ndcg(embeddings).mean()) if choices.num_users else 0.0


def _judge(data: _Data, pretrained: F32, candidate: _Candidate, started: float) -> FinetuneResult:
    """The tuned encoder where the verdict users' NDCG@10 rises by more than the rise's standard error, else the
    pretrained one.
    """
    before, after = data.verdict.ndcg(pretrained), data.verdict.ndcg(candidate.embeddings)
    gain = after - before
    error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    better = float(gain.mean()) > error
    figures = f"{after.mean():.4f} after, {before.mean():.4f} before, the difference +- {error:.4f}"
    reason = f"NDCG@{K} of {len(gain)} held-out users: {figures}" + ("" if better else ": not clearly better")
    encoder = data.encoder
    if better:
        encoder = candidate.encoder()
        encoder.remember(data.texts, candidate.embeddings)
    log.info("keeping the %s encoder (%s): %s", "fine-tuned" if better else "pretrained", candidate.name, reason)
    return FinetuneResult(
        encoder, "fine-tuned" if better else "pretrained", reason, float(before.mean()), float(after.mean()), error,
        candidate.name, len(data.train), len(gain), candidate.steps, time.monotonic() - started,
    )  # fmt: skip
