"""With too many new items to look at them all, an index of them proposes nearly the same ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp

from features.grid import on_grid
from features.histories import Histories
from features.item_sets import ItemSets
from recsys.retrieval import content, nearest
from recsys.retrieval.nearest import build_index
from recsys.retrieval.new_items import NewItemsSource

N, SIZE, VALUES, TOP, QUERIES, FEW = 4000, 24, 40, 20, 25, 100
Ints = npt.NDArray[np.int64]


@pytest.fixture(autouse=True, params=[10**6, 1], ids=["8-bit numbers", "product codes"])
def _few_are_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_LONG", request.param)
    monkeypatch.setattr(nearest, "EXACT_ITEMS", FEW)
    monkeypatch.setattr(nearest, "_PROBED", 24)
    monkeypatch.setattr(content, "FEW_ALLOWED", 50)


def _unit(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def both(weight: float) -> tuple[NewItemsSource, NewItemsSource]:
    """The same source with the index and without it."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, SIZE))
    kinds = rng.integers(0, 40, N)
    embeddings = on_grid(_unit(centres[kinds] + 0.5 * rng.standard_normal((N, SIZE))), items=True)
    attributes = sp.csr_matrix(_unit(np.eye(VALUES)[kinds] + (rng.random((N, VALUES)) < 0.05)), dtype=np.float32)
    rows = np.sort(rng.permutation(N)[: N // 2]).astype(np.int64)
    exact = NewItemsSource(embeddings, attributes, rows, weight, None, 50)
    return dataclasses.replace(exact, index=build_index(embeddings[rows], 0), indexed=rows), exact


def histories() -> Histories:
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, N, 6).astype(np.int64) for _ in range(QUERIES)]
    orders, weights = [np.arange(6.0)] * QUERIES, [np.ones(6, np.float32)] * QUERIES
    return Histories.build(rows, orders, weights, np.full(QUERIES, np.nan), N, np.zeros(QUERIES, bool))


def lists(
    source: NewItemsSource, blocked: ItemSets | None = None, allowed: npt.NDArray[np.bool_] | None = None
) -> list[list[int]]:
    top = source.scores(histories())[""].top(TOP, blocked or ItemSets.empty(QUERIES), allowed)
    return [top.item_rows[top.query_rows == row].tolist() for row in range(QUERIES)]


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_almost_everything_is_found(weight: float) -> None:
    found, exact = map(lists, both(weight))
    assert np.mean([len(set(a) & set(b)) / TOP for a, b in zip(found, exact, strict=True)]) > 0.9
    assert all(len(own) == TOP for own in found)


def test_seen_and_forbidden_items_make_room_for_others() -> None:
    found, exact = both(2.0)
    blocked = ItemSets.of([np.array(own[:5]) for own in lists(found)])
    allowed = np.random.default_rng(2).random(N) < 0.5
    made, expected = (lists(source, blocked, allowed) for source in (found, exact))
    for row, own in enumerate(made):
        assert len(own) == TOP
        assert not set(own) & set(blocked.row(row).tolist())
        assert allowed[own].all()
    assert np.mean([len(set(a) & set(b)) / TOP for a, b in zip(made, expected, strict=True)]) > 0.9


def test_where_few_are_allowed_all_of_them_are_looked_at() -> None:
    allowed = np.random.default_rng(2).random(N) < 0.01
    found, exact = (lists(source, allowed=allowed) for source in both(2.0))
    assert found == exact


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_what_is_new_changed_or_old_since_the_index_was_made(weight: float) -> None:
    """The index finds the one nowhere, the other where it was, and the third still."""
    found, exact = both(weight)
    rest = np.setdiff1d(np.arange(N), found.new_rows)
    gone = np.array(sorted({own[0] for own in lists(exact)}))
    rows = np.sort(np.concatenate([np.setdiff1d(found.new_rows, gone), rest[:30]]))
    changed = rows[:30]
    embeddings = found.embeddings.copy()
    embeddings[changed] = found.embeddings[gone[0]]
    later = {"new_rows": rows, "embeddings": embeddings}
    made = lists(dataclasses.replace(found, moved=changed, **later))
    expected = lists(dataclasses.replace(exact, **later))
    assert not {item for own in made for item in own} & set(gone.tolist())
    assert np.mean([len(set(a) & set(b)) / TOP for a, b in zip(made, expected, strict=True)]) > 0.9
    assert {item for own in made for item in own} & set(changed.tolist())


def test_other_texts_get_an_index_of_their_own() -> None:
    found, exact = both(0.0)
    other = found.embeddings[::-1].copy()
    made, expected = lists(found.with_embeddings(other)), lists(dataclasses.replace(exact, embeddings=other))
    assert np.mean([len(set(a) & set(b)) / TOP for a, b in zip(made, expected, strict=True)]) > 0.9


def test_no_item_is_new_any_more() -> None:
    found, _ = both(2.0)
    assert lists(dataclasses.replace(found, new_rows=found.new_rows[:0])) == [[]] * QUERIES
