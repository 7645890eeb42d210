"""Altered texts to train on, so that an encoder leans on no single word, field or order (Wei and Zou 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from features.encoder import TextEncoder, TokenIds
from features.settings import Settings
from features.tables import join_fields

I64 = npt.NDArray[np.int64]


class AugmentationSettings(Settings):
    """How texts are altered while layers are trained. The projection reads each item once, as it is; the cache of the
    frozen layers is passed by for altered texts, which costs a forward pass of those layers more.
    """

    share: float = Field(default=0.0, ge=0, le=1)
    """Share of a batch's texts that are altered; 0 switches it off."""
    drop_fields: float = Field(default=0.2, ge=0, le=1)
    """Chance that only the first field (the title), or all but the first, are read."""
    cut: float = Field(default=0.3, ge=0, le=1)
    """Chance that the text ends early: at a random word of its second half."""
    drop_words: float = Field(default=0.1, ge=0, lt=1)
    """Chance of each word to be left out."""
    swap_words: float = Field(default=0.05, ge=0, le=1)
    """Chance of each word to change places with the next one."""
    lower_case: float = Field(default=0.2, ge=0, le=1)
    """Chance that the text is in lower case; encoders that read no case don't notice."""


class TextAugmenter:
    """Alters items' texts. `fields` has each item's fields in reading order."""

    def __init__(self, encoder: TextEncoder, fields: Sequence[Sequence[str]], settings: AugmentationSettings) -> None:
        self._encoder = encoder
        self._fields = fields
        self._settings = settings

    def choose(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Which of `n` texts to alter, (n,)."""
        return rng.random(n) < self._settings.share

    def tokens(self, item_rows: I64, rng: np.random.Generator) -> list[TokenIds]:
        """The token ids of the items' texts, each altered anew; a text of which nothing would be left stays."""
        texts = []
        for row in item_rows.tolist():
            fields = self._fields[row]
            text = self._encoder.clean(altered(fields, self._settings, rng, self._encoder.settings.max_tokens))
            texts.append(text or self._encoder.clean(join_fields(fields)))
        return self._encoder.tokenize(texts)


def altered(fields: Sequence[str], settings: AugmentationSettings, rng: np.random.Generator, longest: int) -> str:
    """One random variant of a text given by its fields; at least one word stays. A cut falls within the first
    `longest` words, all that is read.
    """
    filled = [field for field in fields if field.strip()]
    if len(filled) > 1 and rng.random() < settings.drop_fields:
        filled = filled[:1] if rng.random() < 0.5 else filled[1:]
    words = join_fields(filled).split()
    if len(words) > 1 and rng.random() < settings.cut:
        most = min(len(words), longest)
        words = words[: rng.integers((most + 1) // 2, most)]
    words = _without_some(words, settings.drop_words, rng)
    text = " ".join(_swapped(words, settings.swap_words, rng))
    return text.lower() if rng.random() < settings.lower_case else text


def _without_some(words: list[str], chance: float, rng: np.random.Generator) -> list[str]:
    kept = rng.random(len(words)) >= chance
    return [word for word, stays in zip(words, kept, strict=True) if stays] or words[:1]


def _swapped(words: list[str], chance: float, rng: np.random.Generator) -> list[str]:
    """Each word at most one place from where it was."""
    out = list(words)
    place = 0
    while place < len(out) - 1:
        if rng.random() < chance:
            out[place], out[place + 1] = out[place + 1], out[place]
            place += 1
        place += 1
    return out
