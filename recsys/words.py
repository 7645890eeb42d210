"""Texts as words that compare: without case, accents and, for English, the plural s."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+")


def plain(text: str) -> str:
    """Lower case without accents; letters that are none with an accent (ł, ø) stay."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return [_singular(word) for word in _WORD.findall(plain(text))]


def _singular(word: str) -> str:
    """Harman's s-stemmer (1991), which is enough for names of things."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1]
