"""What fine-tuning works on: different texts, training pairs, and held-out users in two halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.augmentation import TextAugmenter
from features.batches import run_starts
from features.encoder import TextEncoder
from features.errors import SettingsError
from features.finetune_settings import FinetuneSettings
from features.hard_negatives import HardNegatives
from features.held_out import HeldOutChoices
from features.next_items import NextItemPairs
from features.teacher import Teacher

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
_MIN_ITEMS, _MIN_HELD_OUT_USERS, _MAX_HELD_OUT_USERS = 10, 10, 2000


@dataclass(frozen=True)
class FinetuneData:
    """What training and judging work on. A row is a different text, `texts` (n_texts,) cleaned: items of one text are
    one.

    `text_rows` (n_items,) int64: each item's text, -1 for none. `train` is drawn from `known`, all pairs of the users
    that are trained on.
    """

    encoder: TextEncoder
    texts: list[str]
    text_rows: I64
    known: NextItemPairs
    train: NextItemPairs
    validation: HeldOutChoices
    verdict: HeldOutChoices
    settings: FinetuneSettings
    seed: int

    @classmethod
    def of(
        cls, encoder: TextEncoder, texts: Sequence[str], pairs: NextItemPairs, settings: FinetuneSettings, seed: int
    ) -> FinetuneData:
        """Clean the texts, number the different ones, split the users."""
        cleaned = [encoder.clean(text) for text in texts]
        distinct = list(dict.fromkeys(text for text in cleaned if text))
        places = {text: place for place, text in enumerate(distinct)}
        text_rows = np.array([places.get(text, -1) for text in cleaned], np.int64)
        usable = _between_texts(pairs, text_rows)
        rng = np.random.default_rng([seed, 1])
        users = rng.permutation(np.unique(usable.user_rows))
        num_held_out = min(_MAX_HELD_OUT_USERS, int(len(users) * settings.share_held_out))
        halves = users[: num_held_out // 2], users[num_held_out // 2 : num_held_out]
        validation, verdict = (
            HeldOutChoices.build(usable.select(np.isin(usable.user_rows, half)), len(distinct)) for half in halves
        )
        known = usable.select(~np.isin(usable.user_rows, users[:num_held_out]))
        train = _sample(known, settings.max_pairs, rng)
        return cls(encoder, distinct, text_rows, known, train, validation, verdict, settings, seed)

    @property
    def rows(self) -> I64:
        """All texts, (n_texts,)."""
        return np.arange(len(self.texts))

    def too_little(self) -> str:
        """Why training or judging is impossible; "" where it isn't."""
        num_items = len(np.union1d(self.train.anchor_rows, self.train.positive_rows))
        if not self.texts:
            return "no item has a text"
        if len(self.train) < self.settings.min_pairs or num_items < _MIN_ITEMS:
            return (
                f"{len(self.train)} pairs of {num_items} items with different texts to train on, fewer than "
                f"{self.settings.min_pairs} pairs of {_MIN_ITEMS} items"
            )
        held_out = min(self.validation.num_users, self.verdict.num_users)
        if held_out < _MIN_HELD_OUT_USERS:
            return f"{held_out} held-out users can judge, fewer than {_MIN_HELD_OUT_USERS}"
        return ""


@dataclass(frozen=True)
class Aids:
    """What helps training beside the pairs, as rows of texts; each is None where the settings don't ask for it."""

    hard: HardNegatives | None = None
    item_vectors: F32 | None = None
    augmenter: TextAugmenter | None = None

    @classmethod
    def of(cls, data: FinetuneData, teacher: Teacher | None, fields: Sequence[Sequence[str]] | None) -> Aids:
        """The teacher is asked for what the users that are trained on say, and no others; it speaks for a text by the
        first of its items.
        """
        settings, users = data.settings, np.unique(data.known.user_rows)
        hard, item_vectors, augmenter = None, None, None
        first_items = _first_items(data.text_rows, len(data.texts))
        if settings.hard_negatives:
            neighbours = _needed(teacher, "hard_negatives").neighbours(users, settings.hard_negative_pool)[first_items]
            of_texts = np.where(neighbours >= 0, data.text_rows[neighbours], -1)
            hard = HardNegatives.of(of_texts, settings.hard_negatives, data.known)
        if settings.behaviour_alignment:
            item_vectors = _unit(_needed(teacher, "behaviour_alignment").item_vectors(users)[first_items])
        if settings.augmentation.share:
            of_items = [[text] for text in data.texts] if fields is None else [fields[item] for item in first_items]
            augmenter = TextAugmenter(data.encoder, of_items, settings.augmentation)
        return cls(hard, item_vectors, augmenter)


def _needed(teacher: Teacher | None, setting: str) -> Teacher:
    if teacher is None:
        raise SettingsError(f"finetune.{setting} is above 0, but no teacher is given to finetune(); set it to 0")
    return teacher


def _between_texts(pairs: NextItemPairs, text_rows: I64) -> NextItemPairs:
    """The pairs as rows of different texts."""
    anchors, positives = text_rows[pairs.anchor_rows], text_rows[pairs.positive_rows]
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


def _first_items(text_rows: I64, num_texts: int) -> I64:
    """The first item of each text, (num_texts,)."""
    items = np.flatnonzero(text_rows >= 0)
    first = np.empty(num_texts, np.int64)
    first[text_rows[items[::-1]]] = items[::-1]
    return first


def _unit(vectors: F32) -> F32:
    """Rows of length 1; zero rows stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0), np.float32)
