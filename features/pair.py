"""What is known of a user and an item together: text matches, shared categories and brands, price distance, earlier
touches.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from features.attributes import own_values
from features.compiled import compiled, fixed
from features.grid import on_grid
from features.histories import Histories, HistoryWeights
from features.item import Columns, ItemFeatures
from features.row_changes import RowChanges
from features.runs import Pairs
from features.settings import Settings
from features.tables import BRAND, CATEGORY, PRICE, BoolArray, Catalogue, IntArray
from features.user import mean_numbers, mean_of_liked

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float32]
_LEAST_PRICE = np.float32(1e-3)


class PairSettings(Settings):
    """How far back a pair's features look."""

    recent_items: int = 10
    """Newest items that a candidate's text is compared with one by one."""
    affinity_half_life: float = 5.0
    """Moments after which a category or brand in the history counts half."""
    history_limit: int = 100
    """Newest moments that a category's or brand's share is taken of."""
    max_attributes: int = 6
    """Attributes (category, brand and further string columns) whose affinity is a feature."""


@dataclass(frozen=True)
class PairFeatures:
    """`embeddings` (n_items, embedding_size) float32 on the item grid, (n_items, 0) without text; their first
    `tuned_size` columns are a fine-tuned encoder's beside the pretrained one's, 0 for a single encoder;
    `attribute_values` CSR (n_items, num_values) float32, idf weights of unit length within an attribute;
    `value_attribute` (num_values,) int64: which of `attribute_names` a value belongs to.
    """

    embeddings: npt.NDArray[np.float32]
    attribute_values: sp.csr_matrix
    value_attribute: npt.NDArray[np.int64]
    attribute_names: tuple[str, ...]
    recent_items: int
    affinity_half_life: float
    history_limit: int
    tuned_size: int = 0

    @classmethod
    def fit(
        cls,
        catalogue: Catalogue,
        embeddings: npt.NDArray[np.float32] | None,
        settings: PairSettings,
        tuned_size: int = 0,
    ) -> Self:
        """Prepare the catalogue's side of every pair; it takes nothing from events."""
        text = np.zeros((len(catalogue), 0), np.float32) if embeddings is None else embeddings
        values, groups, names = attribute_matrix(catalogue, settings.max_attributes)
        return cls(
            text, values, groups, names, settings.recent_items, settings.affinity_half_life, settings.history_limit,
            tuned_size,
        )  # fmt: skip

    def with_rows(self, changes: RowChanges) -> Self:
        """See `features.row_changes`; a value that the catalogue did not hold twice in training counts for nothing."""
        text, values = changes.embedded(self.embeddings), changes.sparse(self.attribute_values, changes.affinities)
        return dataclasses.replace(self, embeddings=text, attribute_values=values)

    def columns(self, histories: Histories, items: ItemFeatures, pairs: Pairs) -> Columns:
        """Features of (history, item) pairs sorted by history, each (n_pairs,) float32."""
        out = self._text(histories, pairs)
        out |= self._affinities(histories, pairs)
        out |= _number_distances(histories, items, pairs)
        out |= _price_distance(histories, items, pairs)
        return out

    def _text(self, histories: Histories, pairs: Pairs) -> Columns:
        """Inner products with the newest items: of the newest moment (best), the best of the recent ones, and the
        recent ones' mean. They are cosines, or a fixed multiple of them for each of two encoders: the pretrained one
        says what a text means beside that what behaviour has taught the other.
        """
        if not self.embeddings.shape[1]:
            return {}
        views = [("text", slice(self.tuned_size or None))]
        if self.tuned_size:
            views.append(("text:plain", slice(self.tuned_size, None)))
        found = np.full((len(views), 3, len(pairs)), np.nan, np.float32)
        touches = histories.last_touches
        for query, span in pairs.runs:
            stop = touches.indptr[query + 1]
            recent = slice(max(int(touches.indptr[query]), int(stop) - self.recent_items), int(stop))
            rows = touches.item_rows[recent][touches.weights[recent] > 0]
            if not len(rows):
                continue
            own, others = pairs.taken(self.embeddings, span), on_grid(self.embeddings[rows], items=False)
            newest = touches.moments_ago[recent][touches.weights[recent] > 0] == 0
            for (_, part), (last, best, mean) in zip(views, found, strict=True):
                alike = own[:, part] @ others[:, part].T
                best[span], mean[span] = alike.max(axis=1), alike.astype(np.float64).sum(axis=1) / len(rows)
                if newest.any():
                    last[span] = alike[:, newest].max(axis=1)
        out: Columns = {}
        for (view, _), (last, best, mean) in zip(views, found, strict=True):
            out |= {f"{view}:last": last, f"{view}:best_of_recent": best, f"{view}:mean_of_recent": mean}
        return out

    def _affinities(self, histories: Histories, pairs: Pairs) -> Columns:
        """Share of the (decayed) history that has the item's category, brand, ...; `:last` from the newest moment
        alone.
        """
        out: Columns = {}
        for view, half_life in (("", self.affinity_half_life), (":last", 0.0)):
            shares = self.shares(histories.weighted(half_life, self.history_limit), pairs)
            out |= {f"pair:share:{name}{view}": row for name, row in shares.items()}
        return out

    def shares(self, weights: HistoryWeights, pairs: Pairs) -> Columns:
        """For each of `attribute_names`, the share of the history's weight on items that have the candidate's values,
        (n_pairs,).
        """
        if not self.attribute_names:
            return {}
        own = self.attribute_values
        matrix = fixed(own.indptr), fixed(own.indices), fixed(own.data), fixed(self.value_attribute)
        history = fixed(weights.indptr), fixed(weights.indices), fixed(weights.data)
        wanted = fixed(pairs.query_rows), fixed(pairs.item_rows)
        found = _shares(*matrix, len(self.attribute_names), *history, *wanted)
        return dict(zip(self.attribute_names, found, strict=True))


@compiled
def _shares(
    indptr: IntArray,
    values: IntArray,
    data: Numbers,
    value_attribute: Ints,
    num_attributes: int,
    starts: Ints,
    history_items: Ints,
    history_weights: Numbers,
    query_rows: Ints,
    item_rows: Ints,
) -> Numbers:
    """(num_attributes, n_pairs): the products of each item's values (CSR) and the mean of its history's, by weight,
    summed by attribute. A history's items are at `starts`; `query_rows` are ascending.
    """
    sums = np.zeros((num_attributes, len(item_rows)), np.float64)
    profile, history = np.zeros(len(value_attribute), np.float64), np.int64(-1)
    for pair in range(len(item_rows)):
        if query_rows[pair] != history:
            history, total = query_rows[pair], 0.0
            profile[:] = 0
            for place in range(starts[history], starts[history + 1]):
                item, weight = history_items[place], history_weights[place]
                total += weight
                for entry in range(indptr[item], indptr[item + 1]):
                    profile[values[entry]] += weight * data[entry]
            profile /= np.maximum(np.float32(total), 1e-9)
        for entry in range(indptr[item_rows[pair]], indptr[item_rows[pair] + 1]):
            sums[value_attribute[values[entry]], pair] += profile[values[entry]] * data[entry]
    return sums.astype(np.float32)


@dataclass(frozen=True)
class PairValues:
    """The values of each attribute that at least two items share: `columns` maps (attribute, value) to the value's
    column, `weights` (num_values,) float64 are idf weights, `names` the attributes that have such values.
    """

    columns: dict[tuple[str, str], int]
    weights: npt.NDArray[np.float64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, catalogue: Catalogue, limit: int) -> Self:
        """Of category, brand and the further string columns, the first `limit` that have any."""
        columns: dict[tuple[str, str], int] = {}
        weights: list[float] = []
        names: list[str] = []
        for name in (CATEGORY, BRAND, *catalogue.attributes):
            counts: dict[str, int] = {}
            for value in catalogue.frame[name]:
                for one in own_values(value):
                    counts[one] = counts.get(one, 0) + 1
            shared = [value for value, count in counts.items() if count >= 2]
            if shared and len(names) < limit:
                columns |= {(name, value): len(columns) + k for k, value in enumerate(shared)}
                weights += [float(np.log(1 + len(catalogue) / counts[value])) for value in shared]
                names.append(name)
        return cls(columns, np.array(weights, np.float64), tuple(names))

    @property
    def attributes(self) -> npt.NDArray[np.int64]:
        """Which of `names` each value belongs to, (num_values,)."""
        places = {name: place for place, name in enumerate(self.names)}
        return np.array([places[name] for name, _ in self.columns], np.int64)

    def matrix(self, frame: pd.DataFrame) -> sp.csr_matrix:
        """(n_rows, num_values) CSR float32 of some items, rows of unit length within each attribute."""
        blocks = [self._block(frame[name], name) for name in self.names]
        if not blocks:
            return sp.csr_matrix(np.zeros((len(frame), 0), np.float32))
        return sum(blocks[1:], start=blocks[0]).astype(np.float32)

    def _block(self, cells: pd.Series, name: str) -> sp.csr_matrix:
        own = [[self.columns.get((name, one), -1) for one in own_values(value)] for value in cells]
        columns = [column for row in own for column in row if column >= 0]
        rows = [row for row, found in enumerate(own) for column in found if column >= 0]
        weighted = sp.csr_matrix((self.weights[columns], (rows, columns)), shape=(len(cells), len(self.weights)))
        norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        return (sp.diags(1 / np.where(norms > 0, norms, 1.0)) @ weighted).tocsr()


def attribute_matrix(catalogue: Catalogue, limit: int) -> tuple[sp.csr_matrix, npt.NDArray[np.int64], tuple[str, ...]]:
    """One column a value of category, brand and the further string attributes that repeat between items; rows of
    unit length within each attribute.
    """
    found = PairValues.of(catalogue, limit)
    return found.matrix(catalogue.frame), found.attributes, found.names


def _number_distances(histories: Histories, items: ItemFeatures, pairs: Pairs) -> Columns:
    """Each number of the item minus the history's mean of it; the price as the log of the ratio."""
    wanted = fixed(pairs.query_rows), fixed(pairs.item_rows)
    is_price = np.array([name == PRICE for name in items.number_names], bool)
    distances = _distances(fixed(mean_numbers(histories, items)), fixed(items.numbers), fixed(is_price), *wanted)
    return {f"pair:distance:{name}": row for name, row in zip(items.number_names, distances, strict=True)}


def _price_distance(histories: Histories, items: ItemFeatures, pairs: Pairs) -> Columns:
    """How many steps up the price ladder of its category the item is from where the user mostly buys in theirs, in
    shares of the ladder: who takes the cheapest lamp may well take the cheapest sofa.
    """
    if not len(items.price_step):
        return {}
    usual = mean_of_liked(histories, items.price_step[:, None])[:, 0]
    return {"pair:price_step": items.price_step[pairs.item_rows] - usual[pairs.query_rows]}


@compiled
def _distances(means: Numbers, numbers: Numbers, as_ratio: BoolArray, query_rows: Ints, item_rows: Ints) -> Numbers:
    """(num_numbers, n_pairs): see `_number_distances`."""
    out = np.empty((len(as_ratio), len(item_rows)), np.float32)
    for k in range(len(as_ratio)):
        for pair in range(len(item_rows)):
            own, usual = numbers[item_rows[pair], k], means[query_rows[pair], k]
            if as_ratio[k]:
                out[k, pair] = np.log(np.maximum(own, _LEAST_PRICE) / np.maximum(usual, _LEAST_PRICE))
            else:
                out[k, pair] = own - usual
    return out
