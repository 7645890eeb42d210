"""The sequence source: its sequences, its loss, its vectors, and that numpy answers what torch has learned."""

from __future__ import annotations

import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from features.blended_encoder import blend
from features.grid import on_grid
from features.histories import Histories
from features.interactions import EventSettings
from features.runs import Pairs
from features.seeds import member_seed
from features.tables import Catalogue, Dataset, Events
from recsys.retrieval import sequence_training
from recsys.retrieval.base import FitData
from recsys.retrieval.item_vectors import co_occurrence_vectors, ridge
from recsys.retrieval.sequence import SequenceSource, _attention, _layers
from recsys.retrieval.sequence_network import Filter, Network, sampled_loss
from recsys.retrieval.sequence_settings import SequenceSettings
from recsys.retrieval.sequence_state import newest_states
from recsys.retrieval.sequence_training import Checked, fit_networks, same_places
from recsys.retrieval.sequences import Sequences, batches

SETTINGS = SequenceSettings(size=8, layers=2, heads=2, max_tokens=6, dropout=0.1, epochs=4, checks=2, batch_tokens=64)


def fit_data(catalogue: Catalogue, events: Events, num_users: int, embeddings: np.ndarray | None = None) -> FitData:
    return FitData(catalogue, events, num_users, EventSettings(), embeddings, seed=0, num_threads=1)


@pytest.fixture(scope="session")
def tiny_data(tiny_dataset: Dataset) -> FitData:
    return fit_data(tiny_dataset.catalogue, tiny_dataset.events, len(tiny_dataset.users))


def events_of(rows: list[tuple[int, int, float]]) -> Events:
    """(user, item, time) as clicks."""
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    ones, kinds = np.ones(len(rows), np.float32), np.zeros(len(rows), np.int16)
    return Events(users.astype(np.int32), items.astype(np.int32), kinds, times.astype(float), ones, ("click",), True)


def history(rows: list[int], times: list[float], num_items: int) -> Histories:
    given = ([np.array(rows)], [np.array(times)], [np.ones(len(rows))])
    return Histories.build(*given, np.array([1e9]), num_items, np.ones(1, bool))


class TestSequences:
    EVENTS = events_of([(0, 4, 1.0), (0, 2, 1.0), (0, 3, 5.0), (0, 4, 6.0), (1, 1, 1.0), (2, 0, 1.0), (2, 1, 2.0)])

    def test_a_basket_is_one_moment_and_an_item_counts_once(self, tiny_dataset: Dataset) -> None:
        found = Sequences.of(fit_data(tiny_dataset.catalogue, self.EVENTS, 3))
        assert found.indptr.tolist() == [0, 3, 5], "user 1 acted once only and is left out"
        assert found.item_rows.tolist() == [2, 4, 3, 0, 1]
        assert found.moments.tolist() == [0, 0, 1, 0, 1]

    def test_targets_are_of_the_next_moment(self, tiny_dataset: Dataset) -> None:
        found = Sequences.of(fit_data(tiny_dataset.catalogue, self.EVENTS, 3))
        assert found.next_items(np.random.default_rng(0)).tolist() == [3, 3, -1, 1, -1]

    def test_without_last_moment(self, tiny_dataset: Dataset) -> None:
        found = Sequences.of(fit_data(tiny_dataset.catalogue, self.EVENTS, 3)).without_last_moment()
        assert (found.indptr.tolist(), found.item_rows.tolist()) == ([0, 2, 3], [2, 4, 0])

    def test_every_place_is_in_one_batch(self, tiny_data: FitData) -> None:
        sequences = Sequences.of(tiny_data)
        parts = list(batches(sequences, 6, 32, np.random.default_rng(0)))
        rows = np.concatenate([part.items[part.moments >= 0] for part in parts])
        assert sorted(rows) == sorted(sequences.item_rows)
        assert max(part.items.shape[1] for part in parts) <= 6
        targets = sum(int((part.targets >= 0).sum()) for part in parts)
        assert targets == int((sequences.next_items(np.random.default_rng(0)) >= 0).sum())


def test_sampled_loss_by_hand() -> None:
    states = torch.tensor([[1.0, 0.0]])
    positives, negatives = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [9.0, 9.0]])
    same = torch.tensor([0]), torch.tensor([1])  # the second negative is the positive itself and may not count
    expected = math.log(math.exp(2.0) + 5 * math.exp(0.0)) - 2.0  # log(10 items / 2 drawn) on the logit 0
    assert float(sampled_loss(states, positives, negatives, same, 10)) == pytest.approx(expected, rel=1e-6)


def test_drawn_items_that_are_wanted_are_found() -> None:
    rng = np.random.default_rng(0)
    wanted, drawn = rng.integers(0, 50, 40), rng.choice(50, 20, replace=False)
    rows, columns = (places.numpy() for places in same_places(wanted, drawn))
    table = np.zeros((40, 20), bool)
    table[rows, columns] = True
    np.testing.assert_array_equal(table, wanted[:, None] == drawn[None])


class TestItemVectors:
    def test_items_that_share_users_are_close(self) -> None:
        matrix = sp.csr_matrix(np.repeat([[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0]], 5, axis=0))
        vectors = co_occurrence_vectors(matrix, 4, np.random.default_rng(0))
        cosines = vectors @ vectors.T
        assert cosines[0, 1] > 0.5 > abs(cosines[0, 3])
        assert not vectors[6].any(), "nobody took it"
        assert np.mean(np.linalg.norm(vectors[:6], axis=1) ** 2) == pytest.approx(1.0, rel=1e-5)

    def test_nothing_shared(self) -> None:
        assert not co_occurrence_vectors(sp.csr_matrix(np.eye(3)), 2, np.random.default_rng(0)).any()

    def test_ridge_recovers_a_projection(self) -> None:
        rng = np.random.default_rng(0)
        text, truth = rng.normal(size=(5000, 6)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
        found = ridge(text, text @ truth, np.arange(5000))
        np.testing.assert_allclose(found, truth, atol=1e-3)


def test_numpy_answers_what_torch_has_learned(tiny_data: FitData) -> None:
    networks = fit_networks(tiny_data, SETTINGS)
    source = SequenceSource.fit(tiny_data, SETTINGS)
    rows, times = [3, 9, 4, 7], [1.0, 2.0, 3.0, 3.0]
    asked = history(rows, times, tiny_data.num_items)
    got = source.scores(asked)[""].queries[0] * source.scores(asked)[""].scale[0] / source.largest_norm  # type: ignore[attr-defined]
    with torch.no_grad():
        tokens = [network.vectors(torch.tensor(rows))[None] for network in networks]
        states = [n(own, torch.tensor([[0, 1, 2, 2]]))[0] for n, own in zip(networks, tokens, strict=True)]
    wanted = np.concatenate([state[2:].mean(0).numpy() for state in states])
    np.testing.assert_allclose(got, wanted, atol=5e-3)  # half a step of the grid times the norm


def test_the_models_scores_are_added_up(tiny_data: FitData) -> None:
    asked = history([3, 9, 4, 7], [1.0, 2.0, 3.0, 3.0], tiny_data.num_items)
    pairs = Pairs(np.zeros(tiny_data.num_items, np.int64), np.arange(tiny_data.num_items))
    together, first = (
        SequenceSource.fit(tiny_data, SETTINGS.model_copy(update={"models": n})).scores(asked)[""].at(pairs)
        for n in (2, 1)
    )
    another = dataclasses.replace(tiny_data, seed=member_seed(tiny_data.seed, 1))
    alone = SETTINGS.model_copy(update={"models": 1, "attending": (0,)})  # as the second of two is
    second = SequenceSource.fit(another, alone).scores(asked)[""].at(pairs)
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_allclose(together, first + second, atol=0.02)


def same_weights(a: Network, b: Network) -> bool:
    return all(torch.allclose(value, b.state_dict()[name], atol=1e-9) for name, value in a.state_dict().items())


def test_models_trained_side_by_side_are_those_trained_one_by_one(
    tiny_data: FitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = fit_networks(tiny_data, SETTINGS)
    both_run = threading.Barrier(SETTINGS.models, timeout=60)
    trained = sequence_training._trained

    def waiting(*given: Any) -> Network:
        both_run.wait()
        return trained(*given)

    monkeypatch.setattr(sequence_training, "_trained", waiting)
    before = torch.get_num_threads()
    together = fit_networks(dataclasses.replace(tiny_data, num_threads=2), SETTINGS)
    assert torch.get_num_threads() == before
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_an_interruption_ends_the_training_of_all_models_at_once(
    tiny_data: FitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches the main thread only; the others must not go on to the last of their epochs."""
    long = SETTINGS.model_copy(update={"epochs": 300})
    passes: list[float] = []
    epoch = sequence_training._epoch

    class Interrupted(ThreadPoolExecutor):
        def map(self, *given: Any, **more: Any) -> Any:
            super().map(*given, **more)
            raise KeyboardInterrupt

    monkeypatch.setattr(sequence_training, "_epoch", lambda *given: passes.append(epoch(*given)) or passes[-1])
    monkeypatch.setattr(sequence_training, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_networks(tiny_data, long)
    assert len(passes) < 300  # of the first model alone there would be as many


def test_weights_that_look_better_by_chance_are_not_taken() -> None:
    """The best of eight checks by some hundred users is better than the last by chance alone."""
    last, *checks = (np.random.default_rng(seed).random(200) for seed in range(9))
    lucky = max(checks, key=np.mean)
    assert lucky.mean() > last.mean()
    assert not Checked({}, lucky).beats(last)
    assert Checked({}, last + 0.1).beats(last)
    assert not Checked({}, last).beats(last)


@pytest.mark.parametrize("num_users", [0, 1, 2])
def test_too_few_held_out_users_decide_nothing(num_users: int) -> None:
    assert not Checked({}, np.ones(num_users)).beats(np.zeros(num_users))


def test_a_training_that_makes_lists_clearly_worse_is_undone(tiny_data: FitData) -> None:
    ruinous = SETTINGS.model_copy(
        update={"models": 1, "learning_rate": 30.0, "id_learning_rate": 30.0, "share_held_out": 0.5}
    )
    ruined = fit_networks(tiny_data, ruinous)[0]
    harmless = ruinous.model_copy(update={"learning_rate": 1e-30, "id_learning_rate": 1e-30})
    assert same_weights(ruined, fit_networks(tiny_data, harmless)[0])


def test_it_learns_what_follows_what(tiny_data: FitData, tiny_dataset: Dataset) -> None:
    source = SequenceSource.fit(tiny_data, SETTINGS.model_copy(update={"epochs": 40}))
    items = tiny_dataset.catalogue.items
    asked = history(items.rows(["space-03", "space-04", "space-05"]).tolist(), [1.0, 2.0, 3.0], len(items))
    top = source.scores(asked)[""].top(2, asked.seen)
    assert "space-06" in items.ids[top.item_rows]


def test_a_new_item_is_found_by_its_text(tiny_data: FitData, tiny_dataset: Dataset) -> None:
    """Without its events, a space book is still nearer to a space reader than a garden book is."""
    items = tiny_dataset.catalogue.items
    text = np.zeros((len(items), 2), np.float32)
    for row, name in enumerate(items.ids):
        text[row, 0 if name.startswith("space") else 1] = 1.0
    new = items.rows(["space-05", "garden-05"])
    events = tiny_dataset.events.select(~np.isin(tiny_dataset.events.item_rows, new))
    data = fit_data(tiny_dataset.catalogue, events, len(tiny_dataset.users), text)
    source = SequenceSource.fit(data, SETTINGS)
    np.testing.assert_allclose(
        source.vectors[new] * source.largest_norm, text[new] @ source.text_projection, atol=1e-3 * source.largest_norm
    )
    asked = history(items.rows(["space-03", "space-04"]).tolist(), [1.0, 2.0], len(items))
    top = source.scores(asked)[""].top(len(items), asked.seen).item_rows.tolist()
    assert top.index(new[0]) < top.index(new[1])


def test_of_a_blend_the_pretrained_part_alone_is_learned_from(tiny_data: FitData) -> None:
    """Other fine-tuned vectors change nothing of it; other pretrained ones do."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(tiny_data.num_items, size)) for size in (3, 3, 4, 4)]
    tuned, other, plain, changed = (
        (part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in parts
    )
    first, second, third = (
        SequenceSource.fit(
            dataclasses.replace(tiny_data, embeddings=on_grid(blend(a, b, 0.2), items=True), tuned_size=3), SETTINGS
        )
        for a, b in ((tuned, plain), (other, plain), (tuned, changed))
    )
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert (first.vectors != third.vectors).any()
    assert first.text_projection.shape == (7, 16)
    assert not first.text_projection[:3].any()
    np.testing.assert_array_equal(
        first.with_embeddings(on_grid(blend(other, plain, 0.2), items=True)).vectors, first.vectors
    )


def test_an_item_without_events_and_text_is_not_offered(tiny_data: FitData, tiny_dataset: Dataset) -> None:
    new = tiny_dataset.catalogue.items.rows(["space-05"])
    events = tiny_dataset.events.select(~np.isin(tiny_dataset.events.item_rows, new))
    source = SequenceSource.fit(fit_data(tiny_dataset.catalogue, events, len(tiny_dataset.users)), SETTINGS)
    asked = history([0, 1], [1.0, 2.0], tiny_data.num_items)
    top = source.scores(asked)[""].top(tiny_data.num_items, asked.seen)
    assert len(top.item_rows) > 10
    assert new[0] not in top.item_rows


def test_an_item_stands_where_it_was_taken_first(tiny_data: FitData) -> None:
    """As in training: what is taken again is no news, and a moment that holds nothing else is none."""
    source = SequenceSource.fit(tiny_data, SETTINGS)
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(50):
        rows, times = rng.choice(6, 9), np.sort(rng.integers(0, 7, 9)).astype(float)
        news = np.sort(np.unique(rows, return_index=True)[1])
        again, once = (
            source.scores(history(rows[kept].tolist(), times[kept].tolist(), tiny_data.num_items))[""].queries  # type: ignore[attr-defined]
            for kept in (slice(None), news)
        )
        np.testing.assert_array_equal(again, once)
        answers.append(once)
    assert len(np.unique(np.concatenate(answers), axis=0)) > 40, "the order matters"


def test_the_order_within_a_basket_does_not_matter(tiny_data: FitData) -> None:
    source = SequenceSource.fit(tiny_data, SETTINGS)
    one, other = (history(rows, [1.0, 2.0, 2.0, 2.0], tiny_data.num_items) for rows in ([1, 5, 3, 8], [1, 8, 5, 3]))
    first, second = (source.scores(asked)[""] for asked in (one, other))
    np.testing.assert_array_equal(first.queries, second.queries)  # type: ignore[attr-defined]


@pytest.mark.parametrize("rows", [[], [(0, 1, 1.0)], [(0, 1, 1.0), (1, 2, 2.0)]], ids=["none", "one", "one each"])
def test_too_little_to_learn_from(tiny_dataset: Dataset, rows: list[Any]) -> None:
    events = events_of(rows) if rows else tiny_dataset.events.before(0.0)
    source = SequenceSource.fit(fit_data(tiny_dataset.catalogue, events, 2), SETTINGS)
    asked = history([1], [1.0], len(tiny_dataset.catalogue))
    assert not len(source.scores(asked)[""].top(5, asked.seen).item_rows)


def woken(network: Network) -> Network:
    """With random weights, also where training begins from zero or one."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name != "ids":
                torch.nn.init.normal_(parameter)
    return network


def test_a_filter_by_hand() -> None:
    """The newest moment, the one before, and the mean of all tokens before those; two tokens of one moment are one."""
    filter_ = Filter(1, 3)
    with torch.no_grad():
        filter_.weight[:] = torch.tensor([[1.0], [10.0], [100.0]])
        x = torch.tensor([[[1.0], [3.0], [5.0], [7.0], [9.0]], [[2.0], [4.0], [0.5], [0.5], [0.5]]])
        moments = torch.tensor([[0, 0, 1, 2, 3], [4, 6, -1, -1, -1]])
        found = filter_(x, moments)[..., 0]
    first = [2.0, 2.0, 5.0 + 20.0, 7.0 + 50.0 + 200.0, 9.0 + 70.0 + 100.0 * (1 + 3 + 5) / 3]
    assert found[0].tolist() == pytest.approx(first)
    assert found[1, :2].tolist() == pytest.approx([2.0, 4.0 + 100.0 * 2.0]), "nothing happened one moment ago"


def test_compiled_loops_answer_what_torch_does_of_any_history() -> None:
    """With weights of any size, a model that attends and one that does not, more moments than the filter has gaps, gaps
    between them longer than attention tells apart, and several items in some.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    settings = SequenceSettings(size=8, max_tokens=20, filter_gaps=4, dropout=0.0)
    ids = rng.normal(size=(30, 16)).astype(np.float32)
    networks = [
        woken(Network(own, None, None, settings, rng, attends=attends)).eval()
        for own, attends in zip(np.split(ids, 2, axis=1), (True, False), strict=True)
    ]
    arrays = [*_layers(networks), *_attention(networks, settings)]
    for moments in ([0], range(15), np.sort(rng.integers(0, 9, 15)), [4, 4, 4], [0, 2, 9, 9, 10], [1, 2, 40, 41, 41]):
        given = np.array(moments)
        rows = rng.permutation(30)[: len(given)]
        with torch.no_grad():
            tokens = [network.vectors(torch.from_numpy(rows))[None] for network in networks]
            states = [n(own, torch.from_numpy(given)[None])[0] for n, own in zip(networks, tokens, strict=True)]
        wanted = np.concatenate([state[torch.from_numpy(given == given[-1])].mean(0).numpy() for state in states])
        found = newest_states(ids[rows], given[-1] - given, *arrays)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(("attending", "found"), [(0, 0), (1, 1), (2, 2), (5, 2)])
def test_so_many_models_attend(tiny_data: FitData, attending: int, found: int) -> None:
    settings = SETTINGS.model_copy(update={"attending": (attending,), "epochs": 1})
    source = SequenceSource.fit(tiny_data, settings)
    assert [len(each) for each in (source.attend, source.joined, source.gap_bias)] == [found] * 3
    assert len(source.filters) == len(source.wide) == 2
    assert source.filters.any(axis=(1, 2, 3)).all(), "both have learned"
    asked = history([3, 9, 4], [1.0, 2.0, 3.0], tiny_data.num_items)
    assert len(source.scores(asked)[""].top(5, asked.seen).item_rows) == 5


def test_unknown_items_look_back_at_themselves_only() -> None:
    """A padded place changes nothing: the states of a short sequence are the same beside a longer one."""
    torch.manual_seed(0)
    ids = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    settings = SequenceSettings(size=4, layers=1, max_tokens=5, dropout=0.0)
    network = woken(Network(ids, None, None, settings, np.random.default_rng(0), attends=True)).eval()
    with torch.no_grad():
        alone = network(network.vectors(torch.tensor([1, 2]))[None], torch.tensor([[0, 1]]))[0]
        items = torch.tensor([[1, 2, 0], [3, 4, 5]])
        moments = torch.tensor([[0, 1, -1], [0, 1, 2]])
        together = network(network.vectors(items.ravel()).view(2, 3, -1), moments)[0, :2]
    np.testing.assert_allclose(alone.numpy(), together.numpy(), atol=1e-6)


def test_a_vector_that_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="size 8 must be a multiple of heads 3"):
        SequenceSettings(size=8, heads=3)


def test_gradients_are_the_same_by_any_run_of_two_threads() -> None:
    """Enough gaps for torch to split the sum of their gradients between threads, were they indexed."""
    from recsys.threads import limit_threads

    ids = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    moments = torch.arange(50).repeat(64, 1)
    found = []
    with limit_threads(2):
        for _ in range(3):
            torch.manual_seed(0)
            settings = SequenceSettings(size=8, layers=1, dropout=0.0)
            network = woken(Network(ids, None, None, settings, np.random.default_rng(0), attends=True))
            network(network.vectors(torch.arange(3200) % 60).view(64, 50, 8), moments).square().sum().backward()
            found.append({name: parameter.grad.numpy().copy() for name, parameter in network.named_parameters()})
    for name, first in found[0].items():
        assert first.any() or name.endswith("norm.bias"), name
        for other in found[1:]:
            np.testing.assert_array_equal(first, other[name], err_msg=name)
