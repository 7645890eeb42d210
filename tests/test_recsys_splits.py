"""Splits: answers worked by hand, a plain restatement of the protocol, and nothing of the future in the past."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.interactions import EventSettings
from features.tables import Catalogue, Dataset, Events, IdIndex, Rejected
from recsys.errors import SettingsError
from recsys.splits import LIST_LENGTH, split, without_test

ITEMS = "abcdefgh"
KINDS = ("view", "purchase")
# user, item, time: 13 events, so that the median time is that of the seventh, 6.
WORLD = [
    ("u", "a", 1), ("u", "b", 2), ("v", "a", 3), ("v", "b", 3), ("v", "c", 4), ("x", "d", 5),
    ("u", "c", 6), ("u", "d", 7), ("u", "e", 7), ("u", "a", 8), ("u", "f", 9), ("w", "b", 10), ("w", "c", 11),
]  # fmt: skip


def dataset(rows, clock="timestamp"):
    """(user, item, time[, kind]) rows in file order."""
    rows = sorted(rows, key=lambda row: row[2])
    users = IdIndex(dict.fromkeys(row[0] for row in rows))
    items = IdIndex(ITEMS)
    events = Events(
        users.rows([row[0] for row in rows]).astype(np.int32),
        items.rows([row[1] for row in rows]).astype(np.int32),
        np.array([KINDS.index(row[3]) if len(row) > 3 else 0 for row in rows], np.int16),
        np.array([row[2] for row in rows], np.float64),
        np.ones(len(rows), np.float32),
        KINDS,
        clock,
        pd.DataFrame({"event_id": [f"{row[0]}{row[1]}{row[2]}" for row in rows]}),
    )
    return Dataset(
        Catalogue(items, pd.DataFrame(index=range(len(items)))), events, users, Rejected(pd.DataFrame()), "f"
    )


def queries(task):
    """(user, at, history as item and time, truth) of each query."""
    histories = [tuple((e.item_id, e.timestamp) for e in request.history) for request in task.requests]
    return [
        (request.user, request.at, history, "".join(sorted(truth)))
        for request, history, truth in zip(task.requests, histories, task.truths, strict=True)
    ]


def triples(task):
    """The train part as (user, item, time)."""
    events = task.train.events
    users, items = task.train.users.ids[events.user_rows], task.train.catalogue.items.ids[events.item_rows]
    return list(zip(users, items, events.times, strict=True))


def test_live_asks_before_each_moment_that_brings_something_new():
    """u comes back to `a` at 8 (nothing new), the basket at 7 is one query, and w has no history before 10."""
    task = split(dataset(WORLD), "live", quantile=0.5)
    assert task.cut == 6
    assert queries(task) == [
        ("u", 6, (("a", 1), ("b", 2)), "c"),
        ("u", 7, (("a", 1), ("b", 2), ("c", 6)), "de"),
        ("u", 9, (("a", 1), ("b", 2), ("c", 6), ("d", 7), ("e", 7), ("a", 8)), "f"),
        ("w", 11, (("b", 10),), "c"),
    ]
    assert task.users == ("u", "u", "u", "w")


def test_static_asks_once_a_user_for_all_that_comes():
    task = split(dataset(WORLD), "static", quantile=0.5)
    assert queries(task) == [("u", 6, (("a", 1), ("b", 2)), "cdef")]


@pytest.mark.parametrize("kind", ["live", "static"])
def test_training_sees_what_happened_strictly_before_the_cut(kind):
    task = split(dataset(WORLD), kind, quantile=0.5)
    assert triples(task) == WORLD[:6]
    assert task.train.events.has_clock
    assert task.cold == set("efgh")


def test_loo_asks_for_the_last_item_and_trains_on_all_but_the_last_two():
    """Distinct items by first touch: u abcdef, v abc, w bc (too short to ask), x d."""
    task = split(dataset(WORLD), "loo")
    order = [(user, at, "".join(item for item, _ in history), truth) for user, at, history, truth in queries(task)]
    assert order == [("u", None, "abcde", "f"), ("v", None, "ab", "c")]
    train = [("u", "a", 0), ("u", "b", 1), ("u", "c", 2), ("u", "d", 3), ("v", "a", 0), ("w", "b", 0)]
    assert sorted(triples(task)) == train
    assert task.cold == set("efgh")
    assert task.cut is None


def test_loo_uses_the_order_alone_even_of_data_with_a_clock():
    """Two users cut at different times must not be lined up by a clock: one's past would hold the other's future."""
    task = split(dataset(WORLD), "loo")
    assert task.train.events.clock == "sequence"
    assert np.all(np.diff(task.train.events.times) >= 0)
    assert all(event.timestamp is None for request in task.requests for event in request.history)


def test_a_repeat_is_no_new_item_and_does_not_move_the_last_one():
    rows = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("u", "a", 4), ("u", "c", 5)]
    assert [(q[2], q[3]) for q in queries(split(dataset(rows, "sequence"), "loo"))] == [
        ((("a", None), ("b", None)), "c")
    ]


def test_loo_breaks_ties_by_the_order_of_the_events():
    rows = [("u", "c", 1), ("u", "b", 1), ("u", "a", 1)]
    assert split(dataset(rows, "sequence")).truths == (frozenset("a"),)


def test_each_user_is_asked_at_the_earliest_moments_only():
    task = split(dataset(WORLD), "live", quantile=0.5, per_user=2)
    assert [(user, at) for user, at, _, _ in queries(task)] == [("u", 6), ("u", 7), ("w", 11)]


def test_requests_are_complete():
    rows = [*WORLD[:6], ("u", "c", 6, "purchase"), *WORLD[7:]]
    requests = split(dataset(rows), "live", quantile=0.5).requests
    assert [request.request_id for request in requests] == ["0", "1", "2", "3"]
    assert all(request.n == LIST_LENGTH and request.exclude_seen for request in requests)
    assert [event.event for event in requests[1].history] == ["view", "view", "purchase"]


def test_optional_columns_stay_with_their_events():
    for kind in ("live", "loo"):
        train = split(dataset(WORLD), kind, quantile=0.5).train
        ids = [f"{user}{item}" for user, item, _ in triples(split(dataset(WORLD), kind, quantile=0.5))]
        assert [name[:2] for name in train.events.extra["event_id"]] == ids


def test_the_default_is_live_with_a_clock_and_loo_without():
    assert split(dataset(WORLD)).kind == "live"
    assert split(dataset(WORLD, "sequence")).kind == "loo"


@pytest.mark.parametrize("kind", ["live", "static"])
def test_without_a_clock_a_split_by_time_is_refused(kind):
    with pytest.raises(SettingsError, match="use loo"):
        split(dataset(WORLD, "sequence"), kind)


def test_an_unknown_task_is_named():
    with pytest.raises(SettingsError, match=r"'weekly'.*static, live, loo"):
        split(dataset(WORLD), "weekly")


@pytest.mark.parametrize("kind", ["live", "static", "loo"])
@pytest.mark.parametrize("rows", [[], [("u", "a", 1)]])
def test_too_little_data_make_no_query(kind, rows):
    assert len(split(dataset(rows), kind)) == 0


def test_the_order_of_a_basket_in_the_file_changes_neither_truth_nor_moments():
    turned = [WORLD[k] for k in (0, 1, 3, 2, 4, 5, 6, 8, 7, 9, 10, 11, 12)]
    for kind in ("live", "static"):
        one, other = (split(dataset(rows), kind, quantile=0.5) for rows in (WORLD, turned))
        assert one.truths == other.truths
        assert [sorted(q[2]) for q in queries(one)] == [sorted(q[2]) for q in queries(other)]


any_rows = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from(ITEMS), st.integers(0, 12), st.sampled_from(KINDS)), max_size=40
)


@given(any_rows, st.sampled_from([0.5, 0.75, 0.9]), st.integers(1, 3))
def test_the_split_is_the_protocol_s(rows, quantile, per_user):
    """The protocol's words once more, one user and one event at a time."""
    for kind in ("live", "static"):
        task = split(dataset(rows), kind, quantile, per_user)
        assert sorted(queries(task)) == sorted(_by_time(rows, kind, quantile, per_user))
    task = split(dataset(rows), "loo")
    expected = _leave_one_out(rows)
    assert sorted((user, tuple(i for i, _ in history), truth) for user, _, history, truth in queries(task)) == expected


@given(any_rows, st.randoms(use_true_random=False))
def test_nothing_after_the_cut_reaches_training(rows, random):
    """Give every event from the cut on another user, item and kind: the train part stays the same to the last bit."""
    before = split(dataset(rows), "live", 0.5)
    late = [row for row in rows if row[2] >= before.cut]
    early = [row for row in rows if row[2] < before.cut]
    relabelled = [(random.choice("uvwx"), random.choice(ITEMS), time, random.choice(KINDS)) for _, _, time, _ in late]
    random.shuffle(relabelled)
    after = split(dataset([*early, *relabelled]), "live", 0.5)
    assert after.cut == before.cut
    assert triples(after) == triples(before)
    assert after.train.events.kinds.tolist() == before.train.events.kinds.tolist()
    assert after.cold == before.cold


@given(any_rows)
def test_a_history_ends_before_its_moment_and_holds_none_of_its_truth(rows):
    for kind in ("live", "static"):
        for _, at, history, truth in queries(split(dataset(rows), kind, 0.5)):
            assert max(time for _, time in history) < at
            assert not {item for item, _ in history} & set(truth)


@given(any_rows, st.randoms(use_true_random=False))
def test_what_a_user_takes_last_reaches_no_loo_training(rows, random):
    """Everyone's last two items replaced by others: the train part stays, and holds no answer."""
    order = defaultdict(list)
    for user, item, _, _ in sorted(rows, key=lambda row: row[2]):
        if item not in order[user]:
            order[user].append(item)
    full = [(u, i, n, "view") for u, items in order.items() for n, i in enumerate(items)]
    changed = [(u, i, n, "view") for u, items in order.items() for n, i in enumerate(_other_end(items, random))]
    one, other = split(dataset(full, "sequence")), split(dataset(changed, "sequence"))
    assert sorted(triples(one)) == sorted(triples(other))
    for user, _, _, truth in queries(one):
        assert truth not in {item for owner, item, _ in triples(one) if owner == user}


def _other_end(items, random):
    kept = max(len(items) - 2, 0) if len(items) >= 3 else len(items) - 1
    unused = sorted(set(ITEMS) - set(items[:kept]))
    return items[:kept] + random.sample(unused, len(items) - kept)


def _by_time(rows, kind, quantile, per_user):
    rows = sorted(rows, key=lambda row: row[2])
    if not rows:
        return []
    cut = float(np.quantile([row[2] for row in rows], quantile))
    found = []
    for user in {row[0] for row in rows}:
        own = [(item, float(time)) for owner, item, time, _ in rows if owner == user]
        moments = [cut] if kind == "static" else sorted({time for _, time in own if time >= cut})
        asked = 0
        for at in moments:
            past = tuple(event for event in own if event[1] < at)
            now = [item for item, time in own if (time >= at if kind == "static" else time == at)]
            truth = set(now) - {item for item, _ in past}
            if past and truth and asked < per_user:
                found.append((user, at, past, "".join(sorted(truth))))
                asked += 1
    return found


def _leave_one_out(rows):
    order = defaultdict(list)
    for user, item, _, _ in sorted(rows, key=lambda row: row[2]):
        if item not in order[user]:
            order[user].append(item)
    return sorted((user, tuple(items[:-1]), items[-1]) for user, items in order.items() if len(items) >= 3)


def test_repeat_asks_before_the_moments_of_live_for_all_that_was_liked():
    """Time 8 of u is a repeat of a, which live leaves out; the lists may hold what was seen."""
    task = split(dataset(WORLD), "repeat", quantile=0.5)
    assert [(q[0], q[1], q[3]) for q in queries(task)] == [
        ("u", 6, "c"), ("u", 7, "de"), ("u", 8, "a"), ("u", 9, "f"), ("w", 11, "c"),
    ]  # fmt: skip
    assert [q[2] for q in queries(task)][2][-1] == ("e", 7)
    assert not any(request.exclude_seen for request in task.requests)
    assert triples(task) == triples(split(dataset(WORLD), "live", quantile=0.5))


def test_repeat_asks_for_liked_items_only():
    """Where views weigh nothing, the only purchase is asked for; the views stay in its history."""
    rows = [*WORLD, ("u", "g", 9, "purchase")]
    settings = EventSettings(weights={"view": 0.0, "purchase": 1.0})
    task = split(dataset(rows), "repeat", quantile=0.5, event_settings=settings)
    assert [(q[0], q[1], q[3]) for q in queries(task)] == [("u", 9, "g")]
    assert len(queries(task)[0][2]) == 6


def test_repeat_without_a_clock_asks_for_the_last_moment():
    """w's two moments and v's two; x has only one. Training sees all others, and what was one basket stays one."""
    task = split(dataset(WORLD, "sequence"), "repeat")
    assert [(q[0], q[1], q[3]) for q in queries(task)] == [("u", None, "f"), ("v", None, "c"), ("w", None, "c")]
    assert {q[0]: q[2] for q in queries(task)}["v"] == (("a", 3), ("b", 3))
    assert len(triples(task)) == len(WORLD) - 3
    assert ("x", "d", 5) in triples(task)
    assert task.cut is None


@pytest.mark.parametrize("kind", ["live", "static", "repeat"])
def test_without_the_test_part_of_a_split_by_time_there_is_what_it_trains_on(kind):
    kept, trained = without_test(dataset(WORLD), kind, 0.5).events, split(dataset(WORLD), kind, 0.5).train.events
    for name in ("user_rows", "item_rows", "times"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(trained, name))


def test_without_the_test_part_of_repeat_without_a_clock_there_is_what_it_trains_on():
    ordered = dataset(WORLD, "sequence")
    kept, trained = without_test(ordered, "repeat").events, split(ordered, "repeat").train.events
    assert len(kept) == len(WORLD) - 3
    for name in ("user_rows", "item_rows", "times"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(trained, name))


def test_without_the_test_part_of_loo_the_last_but_one_is_the_last():
    """The usual protocol: settings are chosen on the item before the one that is judged on."""
    rows = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("u", "d", 4), ("u", "a", 5), ("v", "a", 1), ("v", "b", 2)]
    left = without_test(dataset(rows, "sequence"), "loo")
    assert [(q[0], q[3]) for q in queries(split(dataset(rows, "sequence"), "loo"))] == [("u", "d")]
    assert [(q[0], "".join(e for e, _ in q[2]), q[3]) for q in queries(split(left, "loo"))] == [("u", "ab", "c")]
    assert len(left.events) == 5, "v is asked nothing, so nothing of v is hidden"


@given(any_rows)
def test_nothing_that_is_judged_on_is_left_without_the_test_part(rows):
    data = dataset(rows)
    for kind in ("live", "static", "loo"):
        asked, events = split(data, kind), without_test(data, kind).events
        known = set(zip(data.users.ids[events.user_rows], data.catalogue.items.ids[events.item_rows], strict=True))
        answers = {(user, item) for user, truth in zip(asked.users, asked.truths, strict=True) for item in truth}
        assert not known & answers
        assert kind == "loo" or not (events.times >= asked.cut).any()
