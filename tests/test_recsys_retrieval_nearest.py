"""The index proposes; scores stay exact. What it proposes is nearly always what looking at every item would find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from features.grid import on_grid
from features.item_sets import ItemSets
from features.runs import Pairs
from features.state import load_state, save_state
from recsys.retrieval import nearest, scores
from recsys.retrieval.nearest import NO_INDEX, Nearest, build_index
from recsys.retrieval.scores import InnerProductScores
from recsys.retrieval.text_profile import TextProfileSource

N, SIZE, TOP = 4000, 24, 20
F32 = npt.NDArray[np.float32]


@pytest.fixture(autouse=True, params=[10**6, 1], ids=["8-bit numbers", "product codes"])
def _small_catalogues_are_large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "EXACT_ITEMS", 100)
    monkeypatch.setattr(nearest, "_LONG", request.param)
    monkeypatch.setattr(nearest, "_PROBED", 24)
    monkeypatch.setattr(scores, "FEW_ALLOWED", 50)


def _vectors(lengths: tuple[float, float]) -> F32:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, SIZE))
    vectors = centres[rng.integers(0, 40, N)] + 0.5 * rng.standard_normal((N, SIZE))
    vectors *= rng.uniform(*lengths, (N, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return on_grid(vectors, items=True)


def _both(vectors: F32, queries: int = 30) -> tuple[InnerProductScores, InnerProductScores]:
    """The same scores by index and by looking at every item."""
    asked = _vectors((1.0, 1.0))[:queries]
    exact = InnerProductScores(on_grid(asked, items=False), vectors, np.ones(queries, np.float32))
    return replace(exact, nearest=Nearest(build_index(vectors, 0))), exact


def _lists(
    found: InnerProductScores, blocked: ItemSets, allowed: npt.NDArray[np.bool_] | None = None
) -> list[list[int]]:
    top = found.top(TOP, blocked, allowed)
    return [top.item_rows[top.query_rows == row].tolist() for row in range(len(found.queries))]


@pytest.mark.parametrize("lengths", [(1.0, 1.0), (0.05, 1.0)], ids=["unit vectors", "vectors of any length"])
def test_almost_everything_is_found(lengths: tuple[float, float]) -> None:
    found, exact = (_lists(each, ItemSets.empty(30)) for each in _both(_vectors(lengths)))
    recall = np.mean([len(set(a) & set(b)) / TOP for a, b in zip(found, exact, strict=True)])
    assert recall > 0.9
    assert all(len(own) == TOP for own in found)


def test_scores_are_those_of_the_vectors_themselves() -> None:
    found, exact = _both(_vectors((0.2, 1.0)))
    pairs = Pairs(np.repeat(np.arange(30), 10), np.arange(300))
    np.testing.assert_array_equal(found.at(pairs), exact.at(pairs))


def test_a_list_does_not_depend_on_the_others() -> None:
    together, _ = _both(_vectors((0.2, 1.0)))
    lists = _lists(together, ItemSets.empty(30))
    for row in (0, 7, 29):
        alone = replace(together, queries=together.queries[[row]], scale=together.scale[[row]])
        assert _lists(alone, ItemSets.empty(1)) == [lists[row]]


def test_seen_items_make_room_for_others() -> None:
    found, _ = _both(_vectors((1.0, 1.0)))
    first = _lists(found, ItemSets.empty(30))
    again = _lists(found, ItemSets.of([np.array(own[:5]) for own in first]))
    for before, after in zip(first, again, strict=True):
        assert not set(before[:5]) & set(after)
        assert len(after) == TOP


@pytest.mark.parametrize("share", [0.005, 0.5], ids=["few items allowed", "many items allowed"])
def test_only_allowed_items_come_back_and_as_many_as_there_are(share: float) -> None:
    found, exact = _both(_vectors((1.0, 1.0)))
    allowed = np.random.default_rng(1).random(N) < share
    lists, expected = (_lists(each, ItemSets.empty(30), allowed) for each in (found, exact))
    assert all(allowed[own].all() for own in lists)
    assert [len(own) for own in lists] == [len(own) for own in expected]
    if share < 0.01:
        assert lists == expected


def test_items_that_came_after_the_index_are_looked_at_one_by_one() -> None:
    vectors = _vectors((0.2, 0.9))
    found, _ = _both(vectors)
    newer = on_grid(found.queries * 0.999, items=True)
    longer = replace(found, items=np.concatenate([vectors, newer]))
    assert [own[0] for own in _lists(longer, ItemSets.empty(30))] == [N + row for row in range(30)]


def test_an_index_is_read_from_a_file_as_it_was_written(tmp_path: Path) -> None:
    vectors = _vectors((1.0, 1.0))
    source = TextProfileSource(vectors, None, 50, index=build_index(vectors, 0))
    save_state(source, tmp_path / "source")
    loaded = load_state(TextProfileSource, tmp_path / "source")
    query = on_grid(vectors[:1], items=False)[0]
    assert source._nearest is not None
    assert loaded._nearest is not None
    assert loaded._nearest.propose(query, 30, None).tolist() == source._nearest.propose(query, 30, None).tolist()


def test_a_bundle_from_before_there_was_an_index_is_read_without_one(tmp_path: Path) -> None:
    save_state(TextProfileSource(_vectors((1.0, 1.0)), None, 50), tmp_path / "source")
    (tmp_path / "source" / "index.npy").unlink()
    assert load_state(TextProfileSource, tmp_path / "source")._nearest is None


def test_one_seed_gives_one_index_and_small_catalogues_none(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _vectors((1.0, 1.0))
    np.testing.assert_array_equal(build_index(vectors, 0), build_index(vectors, 0))
    monkeypatch.setattr(nearest, "EXACT_ITEMS", N)
    assert build_index(vectors, 0) is NO_INDEX
    assert nearest.nearest(NO_INDEX) is None


def test_what_changed_or_came_after_the_index_is_found_as_well() -> None:
    """The index knows neither: it would look for the one where it was, and for the other nowhere."""
    vectors = _vectors((1.0, 1.0))
    query = on_grid(_vectors((1.0, 1.0))[:1], items=False)
    far = int(np.argmin(vectors @ query[0]))
    index = build_index(vectors, 0)
    best = on_grid(query * np.float32(0.999), items=True)
    changed = np.vstack([vectors, best])
    changed[far] = best
    asked = InnerProductScores(query, changed, np.ones(1, np.float32), nearest=Nearest(index, np.array([far])))
    assert set(_lists(asked, ItemSets.empty(1))[0][:3]) >= {far, N}
    hidden = np.ones(N + 1, bool)
    hidden[[far, N]] = False
    assert not {far, N} & set(_lists(asked, ItemSets.empty(1), hidden)[0])
