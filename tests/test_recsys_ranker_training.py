"""Learning the ranker: on users who did not train it, it must not be behind the sources' joint order."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest

import recsys.ranker_training
from features.builder import FeatureMatrix
from ranking.by_score import ByScoreRanker
from ranking.examples import RankingExamples, SplitExamples
from ranking.lambdamart import LambdaMartRanker
from ranking.list_metrics import list_ndcg
from ranking_lists import lists, split_lists
from recsys.comparison import Difference, halves
from recsys.feature_groups import source_ablation
from recsys.gating import Gated
from recsys.ranker_training import FUSED, RANKER, learned_ranker
from recsys.settings import Settings, settings_from

TREE: dict[str, Any] = {
    "threads": 1,
    "lambdamart": {"num_trees": 40, "num_leaves": 8, "min_examples_per_leaf": 20, "forests": 2},
    "gating": {"trees": 40, "min_lists": 100},
}


def settings(**forest: Any) -> Settings:
    return settings_from(TREE | {"lambdamart": TREE["lambdamart"] | forest})


def swapped(examples: RankingExamples) -> RankingExamples:
    """The same lists; where the truth's own first item is right, the label has moved to the dice's first."""
    names, values = examples.features.names, examples.features.values
    labels = (values[:, names.index("dice:rank")] == 1).astype(np.float32)
    return RankingExamples(examples.features, labels, examples.groups, examples.users, examples.num_labels)


def test_a_forest_that_joins_two_sources_beats_both_and_is_kept() -> None:
    examples = two_halves_of_the_truth(800, 200)
    report: dict[str, Any] = {}
    learned = learned_ranker(examples, settings(), report)
    assert isinstance(learned.ranker, LambdaMartRanker)
    assert learned.dropped == frozenset()
    assert report["ranker"]["lead"] > 2 * report["ranker"]["lead_error"]
    assert "ranker_reason" not in report
    assert report["ranker"]["starts_from"]["truth"] == round(learned.ranker.start.named()["truth"], 4)


def test_the_forest_that_is_judged_has_as_many_trees_as_each_of_those_shipped() -> None:
    report: dict[str, Any] = {}
    examples = two_halves_of_the_truth(300, 200)
    given = settings(num_trees=50, min_lists_per_tree=10)
    learned = learned_ranker(examples, given, report, gate=False)
    assert isinstance(learned.ranker, LambdaMartRanker)
    assert report["ranker"]["trees"] == 30
    assert learned.ranker.num_trees == 2 * 30
    one = given.lambdamart.model_copy(update={"forests": 1})
    judged = LambdaMartRanker.fit(examples.train, 30, one, given.seed, 1)
    ndcg = list_ndcg(examples.held_out, judged.score(examples.held_out.features)).mean()
    assert report["ranker"]["held_out_ndcg@10"]["ranker"] == round(float(ndcg), 5)


def two_halves_of_the_truth(num_train: int, num_held_out: int) -> SplitExamples:
    """Of young users `truth` knows what is right, of old ones `dice`."""

    def mixed(num_lists: int, first_user: int, seed: int) -> RankingExamples:
        made = lists(num_lists, first_user=first_user, seed=seed)
        old = made.features.column("user:age") > 0.5
        labels = np.where(old, swapped(made).labels, made.labels)
        return RankingExamples(made.features, labels, made.groups, made.users, made.num_labels)

    return SplitExamples.joined([mixed(num_train, 0, 0)], [mixed(num_held_out, num_train, 1)])


def test_a_forest_that_is_clearly_behind_on_the_held_out_users_is_not_used_nor_is_anything_dropped() -> None:
    """Trained on lists where the truth is never right, the forest loses on those where it always is."""
    train = swapped(lists(300, first_user=0, seed=0))
    examples = SplitExamples.joined([train], [lists(40, first_user=300, seed=1)])
    report: dict[str, Any] = {}
    learned = learned_ranker(examples, settings(), report)
    assert learned.ranker == ByScoreRanker.fit(examples.everything)
    assert report["ranker_weights"] == {name: round(own, 4) for name, own in learned.ranker.named().items()}
    assert learned.dropped == frozenset()
    assert report["ranker"]["held_out_ndcg@10"]["truth"] == 1.0
    assert "NDCG@10 on held-out users" in report["ranker_reason"]
    dice = report["ranker"]["held_out_ndcg@10"]["dice"]  # the best source of the lists that are learned from
    assert report["ranker_reason"].endswith(f", the source that was best in training (dice) {dice:.4f}")
    assert not {"gating", "gating_skipped"} & set(report)


def test_a_forest_that_is_behind_by_less_than_the_tolerance_is_used() -> None:
    train = swapped(lists(300, first_user=0, seed=0))
    examples = SplitExamples.joined([train], [lists(40, first_user=300, seed=1)])
    report: dict[str, Any] = {}
    learned = learned_ranker(examples, settings(tolerance=1e6), report)
    assert isinstance(learned.ranker, LambdaMartRanker)
    assert report["ranker"]["lead"] < 0


def test_the_joint_order_that_judges_the_forest_knows_nothing_of_the_held_out_users() -> None:
    examples = SplitExamples.joined([swapped(lists(300, first_user=0, seed=0))], [lists(40, first_user=300, seed=1)])
    report: dict[str, Any] = {}
    learned_ranker(examples, settings(), report)
    judges = examples.held_out
    joint = list_ndcg(judges, ByScoreRanker.fit(examples.train).score(judges.features)).mean()
    assert report["ranker"]["held_out_ndcg@10"][FUSED] == round(float(joint), 5)


def test_a_source_that_is_ahead_of_the_forest_does_not_make_room_for_a_worse_order() -> None:
    """What would serve instead is the joint order, so that alone is what the forest must not be behind."""
    rng = np.random.default_rng(0)
    made = two_halves_of_the_truth(800, 60)
    rows = made.everything.features.query_rows
    odd = (rows >= made.num_train) & (rows % 3 == 0)  # a third of the judging lists: right is what lucky alone knows
    labels = np.where(odd, np.diff(rows, prepend=-1) > 0, made.everything.labels).astype(np.float32)
    lucky = np.where((rows >= made.num_train) & (labels > 0), 1, rng.integers(2, 12, len(rows)))
    names, values = made.everything.features.names, made.everything.features.values
    features = FeatureMatrix((*names, "lucky:rank"), np.column_stack([values, lucky]).astype(np.float32), rows)
    examples = SplitExamples(dataclasses.replace(made.everything, features=features, labels=labels), made.num_train)
    report: dict[str, Any] = {}
    learned = learned_ranker(examples, settings(), report, gate=False)
    found = report["ranker"]["held_out_ndcg@10"]
    assert found["lucky"] == 1.0 > found[RANKER] + 0.1
    assert found[RANKER] > found[FUSED]
    assert isinstance(learned.ranker, LambdaMartRanker)


def test_the_ranker_asks_no_source_that_was_dropped() -> None:
    examples = split_lists(600, 200, trust=0.7)
    report: dict[str, Any] = {}
    learned = learned_ranker(examples, settings(tolerance=100.0), report)
    assert "dice" in report["gating"]["dropped"]
    assert isinstance(learned.ranker, LambdaMartRanker)
    assert learned.dropped == {"dice"}
    assert not any(name.startswith("dice:") for name in learned.ranker.names)
    whole = learned_ranker(examples, settings(), {}, gate=False)
    assert whole.dropped == frozenset()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"min_lists": 601}, "only 600 training lists, gating.min_lists is 601"),
        ({"max_lists": 99}, "only 99 training lists, gating.min_lists is 100"),
    ],
)
def test_the_log_and_the_report_say_why_nothing_was_tried(
    change: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    examples = split_lists(600, 50, trust=0.7)
    report: dict[str, Any] = {}
    given = settings_from(TREE | {"gating": TREE["gating"] | change})
    with caplog.at_level(logging.INFO, logger="recsys.ranker_training"):
        assert learned_ranker(examples, given, report).dropped == frozenset()
    assert (report["gating_skipped"], "gating" in report) == (why, False)
    assert f"gating: skipped, because {why}" in caplog.messages


def test_lists_of_one_user_to_learn_from_say_so() -> None:
    examples = split_lists(200, 50, trust=0.7)
    alone = dataclasses.replace(examples.train, users=np.zeros(200, np.int64))
    report: dict[str, Any] = {}
    learned_ranker(SplitExamples.joined([alone], [examples.held_out]), settings(tolerance=1e6), report)
    assert report["gating_skipped"] == "the training lists are all of one user"


def test_where_too_little_would_be_left_nothing_is_dropped_and_the_report_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examples = split_lists(600, 50, trust=0.7)
    part = source_ablation(examples.everything.features.names, "truth")
    nearly_all_gone = SplitExamples(examples.everything.lists(0, 605), 600)
    found = Gated(nearly_all_gone, (part,), {"truth": {"dropped": True}})
    monkeypatch.setattr(recsys.ranker_training, "gated", lambda examples, settings: found)
    report: dict[str, Any] = {}
    learned = learned_ranker(examples, settings(), report)
    assert (learned.dropped, learned.examples) == (frozenset(), examples)
    assert report["gating_skipped"] == "too few lists are left without truth"
    assert "gating" not in report


@pytest.mark.parametrize("tree", [{"gating": {"enabled": False}}, TREE])
def test_where_gating_is_off_or_at_work_no_reason_is_given(tree: dict[str, Any]) -> None:
    report: dict[str, Any] = {}
    learned_ranker(split_lists(600, 50, trust=0.7), settings_from(TREE | tree), report)
    assert ("gating" in report) == (tree is TREE)
    assert "gating_skipped" not in report


def test_lists_of_one_user_judge_nothing() -> None:
    held_out = lists(40, first_user=0, seed=1)
    alone = RankingExamples(held_out.features, held_out.labels, held_out.groups, np.full(40, 999), held_out.num_labels)
    report: dict[str, Any] = {}
    examples = SplitExamples.joined([lists(100, first_user=0, seed=0)], [alone])
    assert learned_ranker(examples, settings(), report).ranker == ByScoreRanker.fit(examples.everything)
    assert report["ranker_reason"] == "the lists to judge by are all of one user"


def test_halves_keep_users_whole_and_none_is_empty() -> None:
    users = np.array([5, 5, 9, 9, 9, 7])
    for seed in range(20):
        first = halves(users, seed)
        assert 0 < first.sum() < len(users)
        assert all(len(set(first[users == user].tolist())) == 1 for user in (5, 7, 9))


def test_the_difference_is_sure_where_all_lists_agree_and_clustered_by_user() -> None:
    a, b = np.array([1.0, 1.0, 0.0, 0.0]), np.zeros(4)
    assert Difference.of(a, a, np.arange(4)) == Difference(0.0, 0.0)
    assert Difference.of(a, b, np.arange(4)) == Difference(0.5, 0.25)  # sqrt(4 * 0.5 ** 2) / 4
    two = Difference.of(a, b, np.array([1, 1, 2, 2]))  # two users, each all of one kind: sqrt(2 * 1 ** 2) / 4
    assert two.error == np.sqrt(2) / 4


def test_ndcg_of_a_list_by_hand() -> None:
    matrix = FeatureMatrix(("x",), np.zeros((4, 1), np.float32), np.array([0, 0, 0, 1]))
    examples = RankingExamples(
        matrix, np.array([0, 1, 0, 1], np.float32), np.array([3, 1]), np.array([1, 2]), np.array([1, 1])
    )
    assert list_ndcg(examples, np.array([3.0, 2.0, 1.0, 0.0])).tolist() == [1 / np.log2(3), 1.0]
    assert list_ndcg(examples, np.array([np.nan, 2.0, 1.0, np.nan])).tolist() == [1.0, 0.0]
    viewed = dataclasses.replace(examples, labels=examples.labels / 3)
    assert list_ndcg(viewed, np.array([3.0, 2.0, 1.0, 0.0])).tolist() == [1 / np.log2(3), 1.0], "right or wrong only"
