"""Full-text search over the catalogue: BM25 (Robertson and Zaragoza 2009) with weighted fields, forgiving typos."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from features.runs import ends
from features.tables import BRAND, CATEGORY, DESCRIPTION, TITLE, Catalogue, IdIndex
from recsys.words import words

FIELDS: dict[str, int] = {TITLE: 3, BRAND: 2, CATEGORY: 2, DESCRIPTION: 1}
"""How often a word of the field counts."""
MAX_WORDS = 60
"""Words of a field that are indexed: a long description says what it is about at its beginning."""
K1, B = 1.2, 0.75
MAX_QUERY_WORDS = 32
MIN_LIKENESS = 0.4
"""Of trigrams (Dice): what a misspelt word must have in common with a known one."""
MAX_GUESSES = 3
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.integer]


@dataclass(frozen=True)
class LexicalIndex:
    """`weights` (n_words, n_items) CSR float32: each word's BM25 in each item; `trigrams` (n_trigrams, n_words).
    `rarity` (n_words,) float64 and `average`, the mean length of a text, are those of the catalogue that was indexed.
    `guesses` are the words that the trigrams are of; None: all.
    """

    numbers: dict[str, int]
    weights: sp.csr_matrix
    rarity: F64
    average: float
    trigram_numbers: dict[str, int]
    trigrams: sp.csr_matrix
    trigram_counts: Ints
    guesses: tuple[str, ...] | None = None

    @classmethod
    def of(cls, catalogue: Catalogue) -> LexicalIndex:
        """Index every item's title, brand, categories and description."""
        numbers: dict[str, int] = {}
        counts = _counts(_bags(catalogue), numbers)
        num_items = len(catalogue)
        frequency = np.bincount(counts.indices, minlength=counts.shape[1])
        rarity = np.log1p((num_items - frequency + 0.5) / (frequency + 0.5))
        average = max(counts.sum() / num_items, 1.0) if num_items else 1.0
        weights = _bm25(counts, rarity, average).T.tocsr()
        return cls(numbers, weights, rarity, average, *_trigram_index(list(numbers)))

    def index_beside(self, bags: Sequence[Counter[str]], num_items: int) -> LexicalIndex:
        """An index of a few other items, by their words, whose weights compare with those of this one: words are as
        rare as they are here, and new ones as rare as can be among `num_items`. It guesses at new words alone.
        """
        numbers: dict[str, int] = {}
        counts = _counts(iter(bags), numbers)
        known = [self.numbers.get(word) for word in numbers]
        rarest = _rarest(num_items)
        rarity = np.array([rarest if number is None else self.rarity[number] for number in known], np.float64)
        new = [word for word, number in zip(numbers, known, strict=True) if number is None]
        weights = _bm25(counts, rarity, self.average).T.tocsr()
        return LexicalIndex(numbers, weights, rarity, self.average, *_trigram_index(new), guesses=tuple(new))

    def merged(self, catalogue: Catalogue, rows: Ints) -> LexicalIndex:
        """The index of `catalogue`, whose items at `rows` (ascending) have changed or are new. How rare words are stays
        as it was, and a new word is as rare as can be: a hundredth of the time that indexing everything takes.
        """
        numbers = dict(self.numbers)
        counts = _counts(iter(bags_of(catalogue, rows)), numbers)
        new_words = list(numbers)[len(self.numbers) :]
        rarity = np.concatenate([self.rarity, np.full(len(new_words), _rarest(len(catalogue)))])
        own = _bm25(counts, rarity, self.average).T.tocoo()
        old = self.weights.tocoo()
        kept = ~np.isin(old.col, rows)
        places = (np.concatenate([old.row[kept], own.row]), np.concatenate([old.col[kept], rows[own.col]]))
        data, shape = np.concatenate([old.data[kept], own.data]), (len(numbers), len(catalogue))
        trigrams = _trigram_index(new_words, self) if new_words else _trigram_parts(self)
        return LexicalIndex(numbers, sp.csr_matrix((data, places), shape=shape), rarity, self.average, *trigrams)

    @property
    def num_items(self) -> int:
        """Of the catalogue."""
        return int(self.weights.shape[1])

    def scores(self, query: str) -> F64:
        """(n_items,) how well each item answers the query, 0: not at all. The sum of its words' weights, times the
        share of the query's words that the item has.
        """
        return scores_of(self, query)

    def postings(self, word: str) -> tuple[Rows, F32]:
        """The items (k,) that have the word, and its weight in each, (k,)."""
        number = self.numbers.get(word)
        if number is None:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        span = slice(self.weights.indptr[number], self.weights.indptr[number + 1])
        return self.weights.indices[span], self.weights.data[span]

    def meant(self, word: str) -> list[tuple[str, float]]:
        """The word, or those that it may be a misspelling of, and how like they are (squared)."""
        if word in self.numbers:
            return [(word, 1.0)]
        own = [self.trigram_numbers[part] for part in _trigrams(word) if part in self.trigram_numbers]
        if not own:
            return []
        shared = np.asarray(self.trigrams[own].sum(axis=0)).ravel()
        likeness = 2 * shared / (self.trigram_counts + len(_trigrams(word)))
        best = np.argsort(-likeness, kind="stable")[:MAX_GUESSES]
        return [(self._words[k], float(likeness[k]) ** 2) for k in best if likeness[k] >= MIN_LIKENESS]

    @cached_property
    def _words(self) -> tuple[str, ...]:
        """The words that the trigrams are of."""
        return tuple(self.numbers) if self.guesses is None else self.guesses


class WordIndex(Protocol):
    """What scores are made of."""

    @property
    def num_items(self) -> int:
        """Of the catalogue."""

    def meant(self, word: str) -> list[tuple[str, float]]:
        """The words that are meant, and how like they are."""

    def postings(self, word: str) -> tuple[Rows, F32]:
        """The items that have the word, and its weight in each."""


def scores_of(index: WordIndex, query: str) -> F64:
    """See `LexicalIndex.scores`."""
    asked = list(dict.fromkeys(words(query)))[:MAX_QUERY_WORDS]
    total, matched = np.zeros(index.num_items), np.zeros(index.num_items)
    for word in asked:
        best = np.zeros(index.num_items)
        for meant, likeness in index.meant(word):
            rows, weights = index.postings(meant)
            best[rows] = np.maximum(best[rows], weights * likeness)
        total += best
        matched += best > 0
    return np.asarray(total * matched / max(len(asked), 1))


def bags_of(catalogue: Catalogue, rows: Ints) -> list[Counter[str]]:
    """The words of some items, and what they count."""
    columns = [column for column in FIELDS if column in catalogue.frame]
    cells = {column: [catalogue.frame[column].array[row] for row in rows.tolist()] for column in columns}
    frame = pd.DataFrame({column: pd.Series(cells[column], dtype=catalogue.frame[column].dtype) for column in columns})
    ids = [str(catalogue.items.ids[row]) for row in rows.tolist()]
    return list(_bags(Catalogue(IdIndex(ids), frame, catalogue.attributes)))


def _rarest(num_items: int) -> float:
    return float(np.log1p((num_items - 0.5) / 1.5))


def _bags(catalogue: Catalogue) -> Iterator[Counter[str]]:
    columns = [column for column in FIELDS if column in catalogue.frame]
    for fields in catalogue.fields(columns):
        bag: Counter[str] = Counter()
        for column, text in zip(columns, fields, strict=True):
            for word in words(text)[:MAX_WORDS]:
                bag[word] += FIELDS[column]
        yield bag


def _counts(bags: Iterator[Counter[str]], numbers: dict[str, int]) -> sp.csr_matrix:
    """(n_items, n_words) float64; words that `numbers` lacks are added to it."""
    indices, counts = array("q"), array("q")  # lists of millions of numbers would take five times the memory
    lengths = []
    for bag in bags:
        indices.extend([numbers.setdefault(word, len(numbers)) for word in bag])
        counts.extend(bag.values())
        lengths.append(len(bag))
    places = (np.array(counts, np.float64), np.array(indices, np.int64), ends(np.array(lengths, np.int64)))
    return sp.csr_matrix(places, shape=(len(lengths), len(numbers)))


def _bm25(counts: sp.csr_matrix, rarity: F64, average: float) -> sp.csr_matrix:
    """(n_items, n_words) float32 from the counts."""
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    norms = np.repeat(K1 * (1 - B + B * lengths / average), np.diff(counts.indptr))
    data = rarity[counts.indices] * counts.data * (K1 + 1) / (counts.data + norms)
    return sp.csr_matrix((data.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def _trigram_index(
    vocabulary: Sequence[str], before: LexicalIndex | None = None
) -> tuple[dict[str, int], sp.csr_matrix, Ints]:
    """Of the words, behind those of an index made `before`, if any."""
    numbers: dict[str, int] = dict(before.trigram_numbers) if before else {}
    parts = [_trigrams(word) for word in vocabulary]
    rows = [numbers.setdefault(part, len(numbers)) for own in parts for part in own]
    counts = np.array([len(own) for own in parts], np.int64)
    columns = np.repeat(np.arange(len(vocabulary)), counts)
    matrix = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(numbers), len(vocabulary)))
    if before is None:
        return numbers, matrix, counts
    parts_before = before.trigrams.tocoo()
    places = (parts_before.row, parts_before.col)
    old = sp.csr_matrix((parts_before.data, places), shape=(len(numbers), parts_before.shape[1]))
    return numbers, sp.hstack([old, matrix], format="csr"), np.concatenate([before.trigram_counts, counts])


def _trigram_parts(index: LexicalIndex) -> tuple[dict[str, int], sp.csr_matrix, Ints]:
    return index.trigram_numbers, index.trigrams, index.trigram_counts


def _trigrams(word: str) -> set[str]:
    padded = f"\0{word}\0"
    return {padded[k : k + 3] for k in range(len(padded) - 2)}
