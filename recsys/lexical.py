"""Full-text search over the catalogue: BM25 (Robertson and Zaragoza 2009) with weighted fields, forgiving typos."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from features.runs import ends
from features.tables import BRAND, CATEGORY, DESCRIPTION, TITLE, Catalogue
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
F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LexicalIndex:
    """`weights` (n_words, n_items) CSR float32: each word's BM25 in each item; `trigrams` (n_trigrams, n_words)."""

    numbers: dict[str, int]
    weights: sp.csr_matrix
    trigram_numbers: dict[str, int]
    trigrams: sp.csr_matrix
    trigram_counts: Ints

    @classmethod
    def of(cls, catalogue: Catalogue) -> LexicalIndex:
        """Index every item's title, brand, categories and description."""
        numbers: dict[str, int] = {}
        indices, counts = array("q"), array("q")  # lists of millions of numbers would take five times the memory
        lengths = []
        for bag in _bags(catalogue):
            indices.extend([numbers.setdefault(word, len(numbers)) for word in bag])
            counts.extend(bag.values())
            lengths.append(len(bag))
        places = (np.array(counts, np.float64), np.array(indices, np.int64), ends(np.array(lengths, np.int64)))
        matrix = sp.csr_matrix(places, shape=(len(catalogue), len(numbers)))
        return cls(numbers, _bm25(matrix), *_trigram_index(list(numbers)))

    def scores(self, query: str) -> F64:
        """(n_items,) how well each item answers the query, 0: not at all. The sum of its words' weights, times the
        share of the query's words that the item has.
        """
        asked = list(dict.fromkeys(words(query)))[:MAX_QUERY_WORDS]
        total, matched = np.zeros(self.weights.shape[1]), np.zeros(self.weights.shape[1])
        for word in asked:
            best = np.zeros(self.weights.shape[1])
            for number, likeness in self._meant(word):
                span = slice(self.weights.indptr[number], self.weights.indptr[number + 1])
                rows = self.weights.indices[span]
                best[rows] = np.maximum(best[rows], self.weights.data[span] * likeness)
            total += best
            matched += best > 0
        return np.asarray(total * matched / max(len(asked), 1))

    def _meant(self, word: str) -> list[tuple[int, float]]:
        """The word's number, or the words that it may be a misspelling of, and how like they are (squared)."""
        known = self.numbers.get(word)
        if known is not None:
            return [(known, 1.0)]
        own = [self.trigram_numbers[part] for part in _trigrams(word) if part in self.trigram_numbers]
        if not own:
            return []
        shared = np.asarray(self.trigrams[own].sum(axis=0)).ravel()
        likeness = 2 * shared / (self.trigram_counts + len(_trigrams(word)))
        best = np.argsort(-likeness, kind="stable")[:MAX_GUESSES]
        return [(int(k), float(likeness[k]) ** 2) for k in best if likeness[k] >= MIN_LIKENESS]


def _bags(catalogue: Catalogue) -> Iterator[Counter[str]]:
    columns = [column for column in FIELDS if column in catalogue.frame]
    for fields in catalogue.fields(columns):
        bag: Counter[str] = Counter()
        for column, text in zip(columns, fields, strict=True):
            for word in words(text)[:MAX_WORDS]:
                bag[word] += FIELDS[column]
        yield bag


def _bm25(counts: sp.csr_matrix) -> sp.csr_matrix:
    """(n_words, n_items) from the counts (n_items, n_words)."""
    num_items = counts.shape[0]
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = np.log1p((num_items - frequency + 0.5) / (frequency + 0.5))
    average = max(float(lengths.mean()), 1.0) if num_items else 1.0
    norms = np.repeat(K1 * (1 - B + B * lengths / average), np.diff(counts.indptr))
    data = rarity[counts.indices] * counts.data * (K1 + 1) / (counts.data + norms)
    weights = sp.csr_matrix((data.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
    return weights.T.tocsr()


def _trigram_index(vocabulary: Sequence[str]) -> tuple[dict[str, int], sp.csr_matrix, Ints]:
    numbers: dict[str, int] = {}
    parts = [_trigrams(word) for word in vocabulary]
    rows = [numbers.setdefault(part, len(numbers)) for own in parts for part in own]
    counts = np.array([len(own) for own in parts], np.int64)
    columns = np.repeat(np.arange(len(vocabulary)), counts)
    matrix = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(numbers), len(vocabulary)))
    return numbers, matrix, counts


def _trigrams(word: str) -> set[str]:
    padded = f"\0{word}\0"
    return {padded[k : k + 3] for k in range(len(padded) - 2)}
