"""Splits: answers worked by hand, a plain restatement of the protocol, and nothing of the future in the past."""

from __future__ import annotations

import dataclasses
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
KINDS = ("view", "purchase", "dismiss", "impression")
LIKED = ("view", "purchase")
IGNORED = "impression"
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


def acts_of(rows):
    """By time, less what is nothing a user did."""
    return sorted((row for row in rows if row[3] != IGNORED), key=lambda row: row[2])


@given(any_rows, st.sampled_from([0.5, 0.75, 0.9]), st.integers(1, 3))
def test_the_split_is_the_protocol_s(rows, quantile, per_user):
    """The protocol's words once more, one user and one event at a time."""
    for kind in ("live", "static"):
        task = split(dataset(rows), kind, quantile, per_user)
        assert sorted(queries(task)) == sorted(_by_time(rows, kind, quantile, per_user))
    task = split(dataset(rows), "loo")
    asked, train = _leave_one_out(rows)
    assert sorted((user, tuple(i for i, _ in history), truth) for user, _, history, truth in queries(task)) == asked
    assert sorted(triples(task)) == train


@given(any_rows, st.randoms(use_true_random=False))
def test_nothing_after_the_cut_reaches_training(rows, random):
    """Give every event from the cut on another user, item and kind: the train part stays the same to the last bit. The
    kinds are such as move no cut."""
    rows = acts_of(rows)
    before = split(dataset(rows), "live", 0.5)
    late = [row for row in rows if row[2] >= before.cut]
    early = [row for row in rows if row[2] < before.cut]
    relabelled = [
        (random.choice("uvwx"), random.choice(ITEMS), time, random.choice(KINDS[:3])) for _, _, time, _ in late
    ]
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
    rows = acts_of(rows)
    if not rows:
        return []
    cut = float(np.quantile([row[2] for row in rows], quantile))
    found = []
    for user in {row[0] for row in rows}:
        own = [(item, float(time)) for owner, item, time, _ in rows if owner == user]
        liked = [(item, time) for owner, item, time, kind in rows if owner == user and kind in LIKED]
        moments = [cut] if kind == "static" else sorted({time for _, time in own if time >= cut})
        asked = 0
        for at in moments:
            past = tuple(event for event in own if event[1] < at)
            now = [item for item, time in liked if (time >= at if kind == "static" else time == at)]
            truth = set(now) - {item for item, _ in past}
            if past and truth and asked < per_user:
                found.append((user, at, past, "".join(sorted(truth))))
                asked += 1
    return found


def _leave_one_out(rows):
    """(user, history, truth) of each query, and the train part as (user, item, place)."""
    asked, train = [], []
    for user in {row[0] for row in rows}:
        own = acts_of([row for row in rows if row[0] == user])
        touches = []
        for item in {row[1] for row in own}:
            events = [(n, row[2], row[3] in LIKED) for n, row in enumerate(own) if row[1] == item]
            first = [(n, liked) for n, time, liked in events if time == events[0][1]]
            place, liked = next((event for event in first if event[1]), first[0])
            touches.append((place, item, liked))
        items, likes = [item for _, item, _ in sorted(touches)], [liked for _, _, liked in sorted(touches)]
        truths = [n for n, liked in enumerate(likes) if liked]
        if len(truths) >= 3:
            asked.append((user, tuple(items[: truths[-1]]), items[truths[-1]]))
        hidden = truths[-2:] if len(truths) >= 3 else truths[-1:]
        train += [(user, item, n) for n, item in enumerate(items) if not hidden or n < hidden[0]]
    return sorted(asked), sorted(train)


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
    for kind in ("live", "static", "stream", "loo"):
        asked, events = split(data, kind), without_test(data, kind).events
        known = set(zip(data.users.ids[events.user_rows], data.catalogue.items.ids[events.item_rows], strict=True))
        answers = {(user, item) for user, truth in zip(asked.users, asked.truths, strict=True) for item in truth}
        assert not known & answers
        assert kind == "loo" or not (events.times >= asked.cut).any()


ALL_TASKS = ("live", "static", "stream", "repeat", "loo")


def world_with(*changed):
    """WORLD, of which the rows that begin like one of `changed` have its kind."""
    kinds = {row[:3]: row[3] for row in changed}
    return [(*row, kinds.get(row, "view")) for row in WORLD]


@pytest.mark.parametrize("kind", ALL_TASKS)
@pytest.mark.parametrize("shown", ["dismiss", "impression"])
def test_what_is_dismissed_or_only_shown_is_no_right_answer(kind, shown):
    """The moments at which u and w would meet nothing else are not asked about."""
    rows = world_with(("u", "f", 9, shown), ("w", "c", 11, shown), ("u", "e", 7, shown))
    found = [(q[0], q[3]) for q in queries(split(dataset(rows), kind, quantile=0.5))]
    live = [("u", "c"), ("u", "d")]
    assert found == {
        "live": live, "stream": live, "static": [("u", "cd")], "repeat": [*live, ("u", "a")],
        "loo": [("u", "d"), ("v", "c")],
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ALL_TASKS)
def test_what_was_shown_or_dismissed_before_it_is_bought(kind):
    """An impression leaves the item new; a dismissed item is seen, and the product would leave it out of the list."""
    truths = {}
    for first in ("impression", "dismiss"):
        rows = [
            ("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("u", "d", 4, first), ("x", "a", 5),
            ("y", "b", 6), ("u", "d", 8, "purchase"), ("u", "e", 9, "dismiss"),
        ]  # fmt: skip
        truths[first] = [(q[0], q[3]) for q in queries(split(dataset(rows), kind, quantile=0.7))]
    assert truths["impression"] == [("u", "d")]
    assert truths["dismiss"] == {"repeat": [("u", "d")], "loo": [("u", "c")]}.get(kind, [])


def test_a_list_made_before_the_dismissal_may_hold_what_is_bought_after_it():
    """static asks before both; in live and loo, the dismissal comes first."""
    rows = [("u", "a", 1), ("u", "b", 2), ("v", "a", 3), ("u", "d", 6, "dismiss"), ("u", "d", 8, "purchase")]
    asked = {kind: queries(split(dataset(rows), kind, quantile=0.6)) for kind in ("live", "static", "loo")}
    assert [(q[0], q[3]) for q in asked["static"]] == [("u", "d")]
    assert asked["live"] == asked["loo"] == []


@pytest.mark.parametrize("kinds", [("dismiss", "purchase"), ("purchase", "dismiss")])
@pytest.mark.parametrize("kind", ["live", "static", "loo"])
def test_within_a_moment_which_has_no_order_it_is_liked(kind, kinds):
    rows = [("u", "a", 1), ("u", "b", 2), ("v", "a", 3), *(("u", "c", 5, own) for own in kinds)]
    assert [q[3] for q in queries(split(dataset(rows), kind, quantile=0.5))] == ["c"]


@pytest.mark.parametrize("kind", ALL_TASKS)
def test_it_is_as_if_impressions_were_not_there(kind):
    """Not in a history, where they would make somebody a user with one, nor among the events that set the cut."""
    shown = [
        ("z", "a", 0, "impression"),
        ("z", "b", 1, "impression"),
        *(("u", "h", t, "impression") for t in range(20)),
    ]
    with_them = split(dataset([*shown, *WORLD, ("z", "c", 12)]), kind)
    without = split(dataset([("z", "c", 12), *WORLD]), kind)
    assert (sorted(queries(with_them)), with_them.cut, with_them.cold) == (
        sorted(queries(without)), without.cut, without.cold,
    )  # fmt: skip
    assert sorted(triples(with_them)) == sorted(triples(without))


def test_the_service_of_a_stream_is_told_what_was_shown():
    rows = [*WORLD, ("u", "h", 10, "impression")]
    task = split(dataset(rows), "stream", quantile=0.5)
    assert task.later is not None
    assert [KINDS[code] for code in task.later.kinds].count("impression") == 1
    assert len(task.later) == sum(row[2] >= task.cut for row in rows)


def test_only_moments_that_are_asked_count_towards_a_user_s_limit():
    rows = world_with(("u", "c", 6, "dismiss"))
    task = split(dataset(rows), "live", quantile=0.5, per_user=1)
    assert [(q[0], q[1], q[3]) for q in queries(task)] == [("u", 7, "de"), ("w", 11, "c")]


@pytest.mark.parametrize("kind", ALL_TASKS)
def test_the_settings_say_what_is_liked(kind):
    """Where views weigh nothing, what is viewed and bought later is seen, but for static, which asks before both."""
    rows = [
        ("u", "a", 1, "purchase"), ("u", "b", 2, "purchase"), ("v", "a", 3), ("u", "c", 6), ("u", "c", 7, "purchase"),
        ("u", "d", 8, "purchase"),
    ]  # fmt: skip
    settings = EventSettings(weights={"view": 0.0, "purchase": 1.0})
    found = "".join(q[3] for q in queries(split(dataset(rows), kind, quantile=0.5, event_settings=settings)))
    assert found == {"live": "d", "stream": "d", "static": "cd", "repeat": "cd", "loo": "d"}[kind]


@pytest.mark.parametrize("settings", [None, EventSettings(weights={"view": 1.0, "purchase": 0.0}, ignored=("view",))])
@pytest.mark.parametrize("kind", ["live", "static", "repeat", "loo"])
def test_without_the_test_part_there_is_what_the_same_settings_leave(kind, settings):
    data = dataset(world_with(("u", "b", 2, "dismiss"), ("u", "d", 7, "purchase"), ("u", "f", 9, "impression")))
    left, task = without_test(data, kind, 0.5, settings), split(data, kind, 0.5, event_settings=settings)
    known = triples(dataclasses.replace(task, train=left))
    assert kind == "loo" or known == triples(task)
    if kind == "repeat":
        return  # what is right there may be known
    answers = {(user, item) for user, truth in zip(task.users, task.truths, strict=True) for item in truth}
    assert not answers & {(user, item) for user, item, _ in known}


def test_loo_counts_liked_items_alone():
    """u has four: a, b, d and f. What was dismissed stays in the history and in what came before; what came after the
    last but one is not trained on."""
    rows = [
        ("u", "a", 1), ("u", "b", 2), ("u", "c", 3, "dismiss"), ("u", "d", 4), ("u", "e", 5, "dismiss"), ("u", "f", 6),
        ("u", "g", 7, "dismiss"), ("v", "a", 1, "dismiss"), ("v", "b", 2), ("w", "c", 1, "dismiss"),
    ]  # fmt: skip
    data = dataset(rows, "sequence")
    task, left = split(data), without_test(data)
    assert [("".join(item for item, _ in q[2]), q[3]) for q in queries(task)] == [("abcde", "f")]
    assert sorted(triples(task)) == [("u", "a", 0), ("u", "b", 1), ("u", "c", 2), ("v", "a", 0), ("w", "c", 0)]
    assert [("".join(item for item, _ in q[2]), q[3]) for q in queries(split(left))] == [("abc", "d")]
    assert len(left.events) == 5 + 2 + 1
