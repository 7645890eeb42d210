"""Noise in texts, as shops really have it: (text, rng) -> text, pure, each kind a function of its own.

All randomness is the argument's; the same generator state gives the same text. Words are what stands between spaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import numpy as np

Noise = Callable[[str, np.random.Generator], str]

TYPO_SHARE = 0.2
"""Words of three letters or more that get one typo."""
CUT_SHARE = 0.5
"""Words that are left of a text cut short."""
SWAP_SHARE = 0.3
"""Neighbouring words that change places."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TAGS = ("b", "i", "em", "strong", 'span class="text"')


def typos(text: str, rng: np.random.Generator) -> str:
    """A share of the longer words gets one letter swapped with the next, dropped, doubled or replaced."""
    return _each_word(text, lambda word: _misspelt(word, rng) if rng.random() < TYPO_SHARE else word)


def lower_case(text: str, _rng: np.random.Generator) -> str:
    """No capital letters."""
    return text.lower()


def cut_short(text: str, _rng: np.random.Generator) -> str:
    """The first half of the words (the larger half), as where a feed allows so many characters."""
    words = text.split(" ")
    return " ".join(words[: int(np.ceil(CUT_SHARE * len(words)))])


def swapped_words(text: str, rng: np.random.Generator) -> str:
    """A share of the words changes places with the next one; no word is lost."""
    words = text.split(" ")
    place = 0
    while place < len(words) - 1:
        if rng.random() < SWAP_SHARE:
            words[place], words[place + 1] = words[place + 1], words[place]
            place += 1  # a word moves by one place at most
        place += 1
    return " ".join(words)


def html_left_in(text: str, rng: np.random.Generator) -> str:
    """Paragraph tags around, some words in tags, spaces and ampersands as entities, as copied out of a web page."""
    if not text.strip():
        return text
    marked = _each_word(text.replace("&", "&amp;"), lambda word: _tagged(word, rng))
    return f"<div><p>{marked}</p><br/></div>"


NOISES: Final[dict[str, Noise]] = {
    "typos": typos,
    "lower case": lower_case,
    "cut short": cut_short,
    "swapped words": swapped_words,
    "HTML left in": html_left_in,
}
"""Name -> noise."""


def noisy(text: str, noise: Noise, seed: int) -> str:
    """`text` with `noise` from a generator of its own: it depends on the text and `seed` alone, not on other texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return noise(text, np.random.default_rng((seed, int.from_bytes(digest))))


def _each_word(text: str, change: Callable[[str], str]) -> str:
    return " ".join(change(word) if len(word) > 2 else word for word in text.split(" "))


def _misspelt(word: str, rng: np.random.Generator) -> str:
    place, kind = int(rng.integers(len(word) - 1)), int(rng.integers(4))
    before, letter, following, rest = word[:place], word[place], word[place + 1], word[place + 2 :]
    if kind == 0:
        return before + following + letter + rest
    if kind == 1:
        return before + following + rest
    if kind == 2:
        return before + letter + letter + following + rest
    return before + _LETTERS[int(rng.integers(len(_LETTERS)))] + following + rest


def _tagged(word: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.1:
        tag = _TAGS[int(rng.integers(len(_TAGS)))]
        return f"<{tag}>{word}</{tag.split()[0]}>"
    return f"{word}&nbsp;" if draw < 0.15 else word
