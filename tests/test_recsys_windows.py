"""Label windows: what is known before them, what is asked in them, and that nothing else gets in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import world
from features.interactions import EventSettings, event_weights
from features.tables import Dataset, Events
from recsys.examples import check_no_leak, held_out_users
from recsys.retrieval.base import FitData
from recsys.windows import ExampleSettings, LabelWindow, label_windows

SETTINGS = ExampleSettings(windows=2, window_share=0.2)


def windows_of(dataset: Dataset, settings: ExampleSettings = SETTINGS) -> list[LabelWindow]:
    return label_windows(dataset.events, len(dataset.catalogue), settings, EventSettings(), seed=0)


def fit_data(dataset: Dataset, events: Events) -> FitData:
    return FitData(dataset.catalogue, events, len(dataset.users), EventSettings(), None, seed=0, num_threads=1)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.load(world.write_world(tmp_path_factory.mktemp("ordered"), clock=False))


def test_windows_are_consecutive_and_sources_know_only_what_came_before(tiny_dataset: Dataset) -> None:
    newest, older = windows_of(tiny_dataset)
    assert older.as_of < newest.as_of
    for window in (newest, older):
        assert window.known.times.max() < window.as_of <= window.histories.as_of.min()
    assert older.histories.as_of.max() < newest.as_of


def test_a_history_ends_before_its_moment_and_labels_are_what_came_then(tiny_dataset: Dataset) -> None:
    events = tiny_dataset.events
    for window in windows_of(tiny_dataset):
        for q in range(len(window)):
            at = window.histories.as_of[q]
            own = events.user_rows == window.users[q]
            past = np.sort(events.item_rows[own & (events.times < at)])
            span = slice(window.histories.indptr[q], window.histories.indptr[q + 1])
            np.testing.assert_array_equal(np.sort(window.histories.item_rows[span]), past)
            now = events.item_rows[own & (events.times == at)]
            labels = window.label_items[window.label_indptr[q] : window.label_indptr[q + 1]]
            np.testing.assert_array_equal(np.sort(labels), np.setdiff1d(now, past))


@pytest.mark.parametrize("newest", [1, 2, 3])
def test_without_a_clock_each_of_the_newest_moments_is_a_window(ordered: Dataset, newest: int) -> None:
    windows = windows_of(ordered, ExampleSettings(windows=2, newest_moments=newest))
    assert len(windows) == newest
    for back, window in enumerate(windows, start=1):
        assert sorted(window.users.tolist()) == list(range(world.NUM_USERS))
        assert (window.times == world.EVENTS_PER_USER - back).all()
        assert len(window.known) == world.NUM_USERS * (world.EVENTS_PER_USER - back)
        assert window.known.times.max() == world.EVENTS_PER_USER - back - 1
        assert np.isnan(window.histories.as_of).all()
        check_no_leak(fit_data(ordered, window.known), window)


def test_without_a_clock_a_user_s_first_moment_is_known_and_no_label(ordered: Dataset) -> None:
    first = ordered.events.select(ordered.events.times == 0)
    assert not label_windows(first, len(ordered.catalogue), SETTINGS, EventSettings(), seed=0)
    few = ordered.events.select(ordered.events.times < 2)
    (window,) = label_windows(few, len(ordered.catalogue), SETTINGS, EventSettings(), seed=0)
    assert (window.times == 1).all()
    assert (window.known.times == 0).all()


def test_a_basket_is_one_moment_whatever_its_order_in_the_file(tmp_path: Path) -> None:
    rows = world.event_rows()
    for row in rows:
        day = (int(row["timestamp"]) - world.START) // world.DAY
        row["timestamp"] = str(world.START + day // 2 * world.DAY)
    columns = list(rows[0])
    found = []
    for name, order in (("forward", rows), ("backward", rows[::-1])):
        world.write_table(tmp_path / name / "items.csv", world.item_rows())
        world.write_table(tmp_path / name / "events.csv", order, columns)
        dataset = Dataset.load(tmp_path / name)
        names = dataset.users.ids
        (window, *_) = windows_of(dataset, ExampleSettings(windows=1, window_share=0.3, moments_per_user=50))
        lists = {
            (names[window.users[q]], window.histories.as_of[q]): (
                tuple(window.histories.item_rows[window.histories.indptr[q] : window.histories.indptr[q + 1]]),
                tuple(window.label_items[window.label_indptr[q] : window.label_indptr[q + 1]]),
            )
            for q in range(len(window))
        }
        found.append(lists)
    assert found[0] == found[1]
    assert all(len(labels) == 2 for _, labels in found[0].values())


def test_a_share_of_the_users_of_all_windows_is_held_out(tiny_dataset: Dataset) -> None:
    windows = windows_of(tiny_dataset)
    everybody = np.unique(np.concatenate([window.users for window in windows]))
    out = held_out_users(windows, windows, 0.25, seed=3)
    assert len(out) == round(0.25 * len(everybody))
    assert np.isin(out, everybody).all()
    assert not np.array_equal(out, held_out_users(windows, windows, 0.25, seed=4))
    assert not len(held_out_users([], [], 0.25, seed=3))


def test_a_share_of_those_who_only_repeat_is_held_out_beside_the_same_others(tiny_dataset: Dataset) -> None:
    window = windows_of(tiny_dataset)[0]
    repeaters = np.arange(1000, 1040)
    twin = dataclasses.replace(window, users=np.resize(repeaters, len(window)), repeats=True)
    alone, both = (held_out_users([window], twins, 0.25, seed=3) for twins in ([], [twin]))
    assert np.isin(alone, both).all()
    assert np.isin(both[~np.isin(both, alone)], repeaters).all()
    assert len(both) - len(alone) == round(0.25 * len(np.unique(twin.users)))


def test_the_guard_finds_a_planted_leak(tiny_dataset: Dataset) -> None:
    window = windows_of(tiny_dataset)[0]
    check_no_leak(fit_data(tiny_dataset, window.known), window)
    with pytest.raises(ValueError, match="are not before the label window"):
        check_no_leak(fit_data(tiny_dataset, tiny_dataset.events), window)


def test_the_guard_finds_a_label_among_what_is_known_without_a_clock(ordered: Dataset) -> None:
    newest, older = windows_of(ordered)
    with pytest.raises(ValueError, match="labelled"):
        check_no_leak(fit_data(ordered, ordered.events), newest)
    with pytest.raises(ValueError, match="labelled"):
        check_no_leak(fit_data(ordered, newest.known), older)


def test_a_cancelled_or_seen_item_is_no_label(tiny_dataset: Dataset) -> None:
    events = dataclasses.replace(tiny_dataset.events, kind_names=("cancel",))
    assert not event_weights(events, EventSettings()).any()
    assert not any(len(w) for w in label_windows(events, len(tiny_dataset.catalogue), SETTINGS, EventSettings(), 0))


def test_no_more_lists_than_asked_for(tiny_dataset: Dataset) -> None:
    settings = ExampleSettings(windows=2, window_share=0.3, moments_per_user=2, max_lists=40)
    windows = windows_of(tiny_dataset, settings)
    assert sum(len(w) for w in windows) <= 40
    assert max(np.bincount(w.users).max() for w in windows) <= 2


def test_a_label_weighs_what_the_strongest_event_of_its_moment_weighs(tmp_path: Path) -> None:
    """Ann views b and c and buys c at one time, and the next day buys b, which she has seen, and carts e."""
    ann = [("a", "view", 0), ("b", "view", 9), ("c", "view", 9), ("c", "purchase", 9), ("d", "dismiss", 9)]
    ann += [("b", "purchase", 10), ("e", "cart", 10)]
    did = [("ann", *own) for own in ann] + [("bob", "a", "view", day) for day in range(9)]
    rows = [
        {"user_id": user, "item_id": item, "event": event, "timestamp": str(world.START + day * world.DAY)}
        for user, item, event, day in did
    ]
    world.write_table(tmp_path / "items.csv", [{"item_id": item} for item in "abcde"])
    expected = [("b", 9, 0.333), ("c", 9, 1.0), ("e", 10, 0.667)]
    for order in (rows, rows[::-1]):
        world.write_table(tmp_path / "events.csv", order)
        dataset = Dataset.load(tmp_path)
        for repeats, labels in ((False, expected), (True, [*expected[:2], ("b", 10, 1.0), expected[2]])):
            (window,) = label_windows(
                dataset.events, 5, ExampleSettings(windows=1, window_share=0.35), EventSettings(), 0, repeats=repeats
            )
            lists = np.repeat(np.arange(len(window)), window.num_labels)
            days = (window.times[lists] - world.START) / world.DAY
            names = dataset.catalogue.items.ids[window.label_items]
            weights = np.round(window.label_weights.astype(float), 3)
            assert list(zip(names.tolist(), days.tolist(), weights.tolist(), strict=True)) == labels
            pairs = np.divmod(np.arange(5 * len(window)), 5)
            assert np.count_nonzero(window.labels(*pairs)) == len(labels)
            np.testing.assert_array_equal(window.labels(lists, window.label_items), window.label_weights)
