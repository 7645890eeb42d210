from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from features import finetune as finetuning
from features.batches import endless_batches, log_shares
from features.blended_encoder import BlendedEncoder, blend
from features.contrastive import Schedule, learning_rate_factor, train
from features.encoder import EncoderSettings, TextEncoder
from features.errors import EncoderError, SettingsError
from features.finetune import (
    FinetuneSettings,
    NextItemPairs,
    _Candidate,
    _judge,
    _train_stages,
    finetune,
    next_item_pairs,
)
from features.finetune_data import Aids, FinetuneData
from features.held_out import HeldOutChoices
from features.losses import Objective, pair_loss
from features.tables import Events
from features.towers import FullTower, LastLayersTower, LoraTower, ModelTower, ProjectionTower
from tiny_bert import write_tiny_bert

F32 = npt.NDArray[np.float32]
NUM_CLUSTERS, PER_CLUSTER = 2, 24
WORDS = [f"{letter}{vowel}{end}" for letter in "bdfgklmnprst" for vowel in "aeio" for end in "xz"]
QUICK = FinetuneSettings(
    projection_steps=60, projection_learning_rate=2e-2, max_steps=20, learning_rate=1e-3, batch_size=24,
    share_held_out=0.3, trainable="projection", temperature=0.05, keep_pretrained=0.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = write_tiny_bert(tmp_path_factory.mktemp("tiny") / "model", WORDS)
    return TextEncoder.from_settings(EncoderSettings(model=str(folder), cache="off", max_tokens=16, dtype="float32"))


def events_of(users: Sequence[int], items: Sequence[int], times: Sequence[float]) -> Events:
    order = np.argsort(times, kind="stable")
    zeros = np.zeros(len(order))
    return Events(
        np.array(users, np.int32)[order], np.array(items, np.int32)[order], zeros.astype(np.int16),
        np.array(times, np.float64)[order], zeros.astype(np.float32), ("view",), "timestamp",
    )  # fmt: skip


def pairs_of(users: Sequence[int], items: Sequence[int], times: Sequence[float], **values: int) -> NextItemPairs:
    return next_item_pairs(events_of(users, items, times), np.ones(len(users), np.float32), **values)


def as_set(pairs: NextItemPairs) -> set[tuple[int, int, int, int]]:
    columns = (pairs.user_rows, pairs.anchor_rows, pairs.positive_rows, pairs.gaps)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def clustered_world(seed: int = 0) -> tuple[list[str], NextItemPairs]:
    """Item n belongs to cluster n % 2 and is named by two words: each cluster has many words, none in common with the
    other, and only behaviour tells which words belong together. Users stay in one cluster."""
    rng = np.random.default_rng(seed)
    num_items = NUM_CLUSTERS * PER_CLUSTER
    halves = [WORDS[cluster::NUM_CLUSTERS] for cluster in range(NUM_CLUSTERS)]
    texts = [" ".join(rng.choice(halves[item % NUM_CLUSTERS], 2, replace=False)) for item in range(num_items)]
    users, items, times = [], [], []
    for user in range(160):
        mine = rng.permutation(np.arange(user % NUM_CLUSTERS, num_items, NUM_CLUSTERS))[:8]
        users += [user] * len(mine)
        items += mine.tolist()
        times += list(range(len(mine)))
    return texts, pairs_of(users, items, times)


def purity(encoder: TextEncoder | BlendedEncoder, texts: list[str]) -> float:
    """The share of each item's ten nearest neighbours that belong to its own cluster; by chance 0.5."""
    rows = encoder.encode(texts)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1)[:, :10]
    return float((nearest % NUM_CLUSTERS == np.arange(len(texts))[:, None] % NUM_CLUSTERS).mean())


def test_pairs_join_the_moments_within_the_window() -> None:
    pairs = pairs_of([0, 0, 0, 0, 0, 1], [0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 5, 9], window=2)
    assert as_set(pairs) == {(0, a, p, p - a) for a in range(5) for p in range(a + 1, min(a + 3, 5))}


def test_a_basket_pairs_both_ways_and_has_no_order() -> None:
    pairs = pairs_of([7, 7, 7], [2, 5, 3], [1, 1, 4])
    assert as_set(pairs) == {(7, 2, 5, 0), (7, 5, 2, 0), (7, 2, 3, 1), (7, 5, 3, 1)}
    shuffled = pairs_of([7, 7, 7], [5, 2, 3], [1, 1, 4])
    assert as_set(shuffled) == as_set(pairs)


def test_large_baskets_give_a_bounded_number_of_pairs_whatever_their_order() -> None:
    items = list(range(300))
    pairs = pairs_of([0] * 300, items, [5.0] * 300, max_anchors=4)
    assert len(pairs) == 1200
    assert np.bincount(pairs.positive_rows).tolist() == [4] * 300
    assert as_set(pairs_of([0] * 300, items[::-1], [5.0] * 300, max_anchors=4)) == as_set(pairs)


def test_repeats_and_unwanted_events_make_no_pairs() -> None:
    events = events_of([0, 0, 0], [1, 1, 2], [1, 2, 3])
    assert not len(next_item_pairs(events, np.zeros(3, np.float32)))
    pairs = next_item_pairs(events, np.array([1.0, 1.0, 0.0], np.float32))
    assert not len(pairs)
    assert as_set(next_item_pairs(events, np.ones(3, np.float32))) == {(0, 1, 2, 1)}
    assert not len(pairs_of([], [], []))


def test_loss_against_numbers_worked_by_hand() -> None:
    import torch

    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    shares = torch.log(torch.tensor([0.5, 0.25, 0.25]))
    # 0 may choose 1 (cosine 0) or 2 (0.6), 1 may choose 0 (0) or 2 (0.8); the shares divide: times 2, 4 and 4
    forward = -np.log(4 / (4 + 4 * np.exp(0.6)))
    backward = -np.log(2 / (2 + 4 * np.exp(0.8)))
    loss = pair_loss(vectors, torch.tensor([0]), torch.tensor([1]), shares, 1.0)
    assert float(loss) == pytest.approx((forward + backward) / 2, abs=1e-6)


def test_other_partners_are_no_negatives() -> None:
    import torch

    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.3, 1.0], [1.0, 1.0]]), dim=1)
    loss = pair_loss(vectors, torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]), torch.zeros(3), 0.1)
    assert float(loss) == 0.0


def test_batches_hold_every_pair_once_an_epoch() -> None:
    _, pairs = clustered_world()
    batches = endless_batches(pairs, 20, np.random.default_rng(0))
    seen: list[int] = []
    while len(seen) < len(pairs):
        seen += next(batches).tolist()
    assert sorted(seen) == list(range(len(pairs)))


def test_learning_rate_rises_then_falls() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors.index(max(factors)) in range(8, 11)
    assert factors[-1] == pytest.approx(0.05)


def test_log_shares_count_both_ends() -> None:
    shares = log_shares(pairs_of([0, 0], [1, 2], [1, 2]), 4)
    np.testing.assert_allclose(np.exp(shares), [1 / 6, 2 / 6, 2 / 6, 1 / 6], rtol=1e-6)


def test_held_out_ndcg_by_hand() -> None:
    # user 0 goes 0 -> 1, user 1 goes 2 -> 3; item 4 has no text
    choices = HeldOutChoices.build(pairs_of([0, 0, 1, 1], [0, 1, 2, 3], [1, 2, 1, 2]), 5)
    angles = np.array([0.0, 0.1, 2.0, 2.4])
    embeddings = np.zeros((5, 2), np.float32)
    embeddings[:4] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # 1 is the nearest to 0: rank 1. From 2 (2.0 rad) the nearest are 3 (0.4 away), then 1 and 0: rank 1.
    assert choices.ndcg(embeddings).tolist() == [1.0, 1.0]
    embeddings[3] = [np.cos(4.5), np.sin(4.5)]  # now 2.5 rad away from 2, with 1 (1.9) and 0 (2.0) nearer: rank 3
    assert choices.ndcg(embeddings).tolist() == pytest.approx([1.0, 0.5])
    assert choices.ndcg(np.zeros((5, 2), np.float32)).tolist() == [0.0, 0.0]


def test_equal_embeddings_earn_no_credit_by_position() -> None:
    choices = HeldOutChoices.build(pairs_of([0, 0], [0, 1], [1, 2]), 40)
    assert choices.ndcg(np.ones((40, 1), np.float32)).tolist() == [0.0]


@pytest.mark.parametrize("trainable", ["projection", "last_layers", "full"])
def test_items_chosen_together_come_together(encoder: TextEncoder, trainable: str) -> None:
    texts, pairs = clustered_world()
    settings = QUICK.model_copy(update={"trainable": trainable, "num_layers": 1})
    result = finetune(encoder, texts, pairs, settings, seed=3)
    assert result.kept == "fine-tuned", result.reason
    assert result.finetuned_score is not None
    assert result.pretrained_score is not None
    assert result.finetuned_score > result.pretrained_score + 0.05
    assert purity(encoder, texts) < 0.65
    assert purity(result.encoder, texts) > 0.9
    assert result.stage in {"projection", trainable}


@pytest.mark.parametrize("trainable", ["last_layers", "full"])
def test_layers_learn_without_the_projection_stage(encoder: TextEncoder, trainable: str) -> None:
    texts, pairs = clustered_world()
    settings = QUICK.model_copy(update={"trainable": trainable, "projection_steps": 0, "num_layers": 1})
    result = finetune(encoder, texts, pairs, settings)
    assert (result.kept, result.stage) == ("fine-tuned", trainable), result.reason
    before, after = encoder.model.state_dict(), result.encoder.model.state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all(
        name.startswith("encoder.layer.1" if trainable == "last_layers" else "encoder.layer") for name in changed
    )


@pytest.mark.parametrize(("gain", "stage"), [(0.05, "last_layers"), (-0.01, "last_layers"), (-0.2, "projection")])
def test_trained_layers_stay_unless_the_projection_is_clearly_better(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, gain: float, stage: str
) -> None:
    """A few validation users differ by more than what the layers are worth."""
    texts, pairs = clustered_world()
    data = FinetuneData.of(encoder, texts, pairs, QUICK.model_copy(update={"trainable": "last_layers"}), 3)
    spread = np.random.default_rng(0).normal(0, 0.1, data.validation.num_users)

    def changed(*given: Any) -> _Candidate:
        made = train_layers(*given)
        return dataclasses.replace(made, validation=projection[0].validation + gain + spread - spread.mean())

    def remembered(*given: Any) -> _Candidate:
        projection.append(train_projection(*given))
        return projection[-1]

    projection: list[_Candidate] = []
    train_layers, train_projection = finetuning._train_layers, finetuning._train_projection
    monkeypatch.setattr(finetuning, "_train_layers", changed)
    monkeypatch.setattr(finetuning, "_train_projection", remembered)
    assert _train_stages(data, Aids())[1].name == stage


def test_layers_that_no_check_likes_better_are_trained_all_the_same(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, pairs = clustered_world()
    data = FinetuneData.of(encoder, texts, pairs, QUICK, 3)
    tower = ProjectionTower(encoder, encoder.encode(data.texts))
    before = tower.embed_all(data.rows)
    schedule = Schedule(
        steps=6, batch_size=24, learning_rate=1e-2, warmup_share=0.0, accumulation=1, evaluations=3, patience=9
    )
    objective = Objective(np.zeros(len(data.texts), np.float32), 0.05, True, 0.0, 0.0, None, 0.0)
    falling = iter([0.9, 0.5, 0.4, 0.3, 0.9, 0.5, 0.4, 0.3])
    for may_stay, kept in ((True, 0), (False, 2)):
        outcome = train(
            tower, data.train, objective, schedule, np.random.default_rng(0), lambda: next(falling), may_stay=may_stay
        )
        assert outcome.best_step == kept
        assert np.array_equal(tower.embed_all(data.rows), before) == may_stay


def test_one_seed_gives_the_same_weights_and_leaves_the_pretrained_ones_alone(encoder: TextEncoder) -> None:
    texts, pairs = clustered_world()
    settings = QUICK.model_copy(update={"trainable": "last_layers", "max_steps": 5, "projection_steps": 20})
    before = encoder.encode(texts)
    first, second, other = (finetune(encoder, texts, pairs, settings, seed=seed) for seed in (1, 1, 2))
    assert first.encoder.fingerprint == second.encoder.fingerprint
    assert first.encoder.fingerprint != other.encoder.fingerprint
    np.testing.assert_array_equal(encoder.encode(texts), before)


def test_remembered_embeddings_are_the_encoders_own(encoder: TextEncoder) -> None:
    texts, pairs = clustered_world()
    result = finetune(encoder, [*texts, ""], pairs, QUICK.model_copy(update={"trainable": "last_layers"}))
    remembered = result.encoder.encode([*texts, ""])
    anew = result.encoder.with_weights(result.encoder.model, result.encoder.projection).encode([*texts, ""])
    np.testing.assert_allclose(remembered, anew, atol=1e-6)
    assert not remembered[-1].any()


def test_pretrained_embeddings_are_kept_and_used_again(encoder: TextEncoder, tmp_path: Path) -> None:
    texts, pairs = clustered_world()
    settings = QUICK.model_copy(update={"trainable": "last_layers", "max_steps": 5})
    cached = TextEncoder(
        encoder.model, encoder.tokenizer, encoder.settings.model_copy(update={"cache": str(tmp_path / "cache")})
    )
    first = finetune(cached, texts, pairs, settings)
    assert cached.knows([cached.clean(text) for text in texts])
    again = finetune(cached, texts, pairs, settings)
    assert again.pretrained_score == first.pretrained_score
    np.testing.assert_allclose(cached.encode(texts), encoder.encode(texts), atol=1e-6)


def test_noise_keeps_the_pretrained_encoder_and_says_why(encoder: TextEncoder) -> None:
    texts, pairs = clustered_world()
    rng = np.random.default_rng(5)
    noise = NextItemPairs(
        rng.integers(0, len(texts), len(pairs)), rng.integers(0, len(texts), len(pairs)), pairs.user_rows, pairs.gaps,
        pairs.moments,
    )  # fmt: skip
    result = finetune(encoder, texts, noise, QUICK)
    assert result.kept == "pretrained"
    assert result.encoder is encoder
    assert "not clearly better" in result.reason
    blended = finetune(encoder, texts, noise, QUICK.model_copy(update={"keep_pretrained": 0.2}))
    assert (blended.kept, blended.pretrained_share) == ("pretrained", 0.0)
    assert result.finetuned_score is not None


@pytest.mark.parametrize(
    ("texts", "kept_pairs", "reason"),
    [
        ([""] * 48, 10**9, "no item has a text"),
        (["red table"] * 48, 10**9, "0 pairs of 0 items"),
        ([f"item {WORDS[n]}" for n in range(48)], 60, "to train on"),
        ([f"item {WORDS[n]}" for n in range(48)], 0, "0 pairs"),
    ],
)
def test_too_little_to_learn_from_keeps_the_pretrained_encoder(
    encoder: TextEncoder, texts: list[str], kept_pairs: int, reason: str
) -> None:
    _, pairs = clustered_world()
    result = finetune(encoder, texts, pairs.select(np.arange(len(pairs)) < kept_pairs), QUICK)
    assert (result.kept, result.encoder) == ("pretrained", encoder)
    assert reason in result.reason
    assert result.finetuned_score is None


def test_one_item_and_switched_off(encoder: TextEncoder) -> None:
    alone = finetune(encoder, ["red table"], pairs_of([0, 0], [0, 0], [1, 2]), QUICK)
    assert alone.kept == "pretrained"
    texts, pairs = clustered_world()
    off = finetune(encoder, texts, pairs, FinetuneSettings(enabled=False))
    assert (off.kept, off.reason) == ("pretrained", "fine-tuning is switched off")


def test_one_user_cannot_be_judge_and_party(encoder: TextEncoder) -> None:
    texts, pairs = clustered_world()
    one = NextItemPairs(pairs.anchor_rows, pairs.positive_rows, pairs.user_rows * 0, pairs.gaps, pairs.moments)
    assert "held-out users" in finetune(encoder, texts, one, QUICK).reason


@pytest.mark.parametrize("cache_bytes", [0, 5000, 2**30])
def test_cached_lower_layers_change_nothing(encoder: TextEncoder, cache_bytes: int) -> None:
    texts, _ = clustered_world()
    tower = LastLayersTower(encoder, encoder.tokenize(texts), 1, cache_bytes)
    rows = np.arange(len(texts))
    expected = encoder.encode(texts)
    for _ in range(2):
        np.testing.assert_allclose(tower.embed_all(rows), expected, atol=1e-6)
        np.testing.assert_allclose(tower.embed(rows[::-1]).detach().numpy(), expected[::-1], atol=1e-6)


def test_what_has_no_room_is_run_anew_and_nothing_else(encoder: TextEncoder) -> None:
    texts = [" ".join(WORDS[:12])] * 40
    state = len(encoder.tokenize(texts[:1])[0]) * encoder.embedding_size * 4
    tower = LastLayersTower(encoder, encoder.tokenize(texts), 1, 30 * state)
    run: list[int] = []
    tower._lower[0].register_forward_hook(lambda layer, given, out: run.append(len(given[0])))
    for expected in (40, 10, 10):
        run.clear()
        tower.embed(np.arange(40))
        assert sum(run) == expected


def test_without_room_for_frozen_layers_the_same_is_trained(encoder: TextEncoder) -> None:
    texts, pairs = clustered_world()
    short = QUICK.model_copy(update={"trainable": "last_layers", "num_layers": 1, "hidden_cache_mb": 0})
    without, enough = (
        finetune(encoder, texts, pairs, short.model_copy(update={"hidden_cache_mb": size})) for size in (0, 1)
    )
    assert (without.stage, without.steps, without.kept) == (enough.stage, enough.steps, enough.kept)
    assert without.stage == "last_layers"
    np.testing.assert_allclose(without.encoder.encode(texts), enough.encoder.encode(texts), atol=1e-4)


def test_towers_start_as_the_encoder_and_become_one(encoder: TextEncoder) -> None:
    pytest.importorskip("peft")
    texts, _ = clustered_world()
    tokens, rows = encoder.tokenize(texts), np.arange(len(texts))
    towers: list[ProjectionTower | ModelTower] = [
        ProjectionTower(encoder, encoder.encode(texts)), FullTower(encoder, tokens), LastLayersTower(encoder, tokens,
        5, 0), LoraTower(encoder, tokens, seed=0),
    ]  # fmt: skip
    for tower in towers:
        np.testing.assert_allclose(tower.embed_all(rows), encoder.encode(texts), atol=1e-6)
        loss = tower.embed(rows[:4]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        for weight in tower.trainable():
            weight.data += 0.05
        np.testing.assert_allclose(tower.encoder().encode(texts), tower.embed_all(rows), atol=1e-5)


def test_models_that_cannot_be_split_say_what_to_set(encoder: TextEncoder) -> None:
    import copy

    other = copy.copy(encoder)
    other.model = copy.deepcopy(encoder.model)
    other.model.config.model_type = "distilbert"
    with pytest.raises(EncoderError, match="set it to 'full'"):
        LastLayersTower(other, [], 2, 0)


class ClusterTeacher:
    """Says what the clustered world is, and remembers whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[set[int]] = []

    def neighbours(self, user_rows: np.ndarray, n: int) -> np.ndarray:
        self.asked.append(set(user_rows.tolist()))
        items = np.arange(NUM_CLUSTERS * PER_CLUSTER)
        return np.stack([(items + NUM_CLUSTERS * step) % len(items) for step in range(1, n + 1)], axis=1)

    def item_vectors(self, user_rows: np.ndarray) -> np.ndarray:
        self.asked.append(set(user_rows.tolist()))
        return np.eye(NUM_CLUSTERS, dtype=np.float32)[np.arange(NUM_CLUSTERS * PER_CLUSTER) % NUM_CLUSTERS]


OPTIONS: dict[str, dict[str, object]] = {
    "symmetric": {"symmetric": False},
    "history_share": {"history_share": 0.5},
    "hard_negatives": {"hard_negatives": 2, "hard_negative_pool": 5},
    "behaviour_alignment": {"behaviour_alignment": 0.5},
    "adversarial_size": {"adversarial_size": 0.05},
    "weight_averaging": {"weight_averaging": 0.5},
    "augmentation": {
        "augmentation": {"share": 0.5},
        "trainable": "last_layers",
        "projection_steps": 0,
        "max_steps": 20,
    },
}


def tuned_by(encoder: TextEncoder, seed: int = 1, teacher: ClusterTeacher | None = None, **values: object) -> F32:
    """The embeddings after a short training of the clustered world, kept in any case."""
    texts, pairs = clustered_world()
    quick = QUICK.model_dump() | {"projection_steps": 15, "max_steps": 4, "num_layers": 1} | values
    settings = FinetuneSettings.model_validate(quick)
    data = FinetuneData.of(encoder, texts, pairs, settings, seed)
    fields = [text.split() for text in texts]
    _, candidate = _train_stages(data, Aids.of(data, teacher or ClusterTeacher(), fields))
    return candidate.embeddings


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_training_and_one_seed_gives_one_result(encoder: TextEncoder, option: str) -> None:
    changed = OPTIONS[option]
    own = {name: changed[name] for name in ("trainable", "projection_steps", "max_steps") if name in changed}
    without, first, second = (tuned_by(encoder, **values) for values in (own, changed, changed))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - without).max() > 1e-4
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("option", [name for name in OPTIONS if name != "augmentation"])
def test_items_chosen_together_come_together_with_every_option(encoder: TextEncoder, option: str) -> None:
    texts, pairs = clustered_world()
    settings = FinetuneSettings.model_validate(QUICK.model_dump() | OPTIONS[option])
    result = finetune(encoder, texts, pairs, settings, seed=3, teacher=ClusterTeacher())
    assert result.kept == "fine-tuned", result.reason
    # items of one cluster are all hard negatives of each other here, less what the user knows
    assert purity(result.encoder, texts) > (0.75 if option == "hard_negatives" else 0.9)


def test_the_teacher_is_asked_about_training_users_only(encoder: TextEncoder) -> None:
    texts, pairs = clustered_world()
    settings = FinetuneSettings.model_validate(QUICK.model_dump() | {"hard_negatives": 1, "behaviour_alignment": 0.1})
    data, teacher = FinetuneData.of(encoder, texts, pairs, settings, 4), ClusterTeacher()
    aids = Aids.of(data, teacher, None)
    judges = {*data.validation.target_users.tolist(), *data.verdict.target_users.tolist()}
    assert len(judges) >= 40
    assert len(teacher.asked) == 2
    for asked in teacher.asked:
        assert not asked & judges
        assert asked == set(pairs.user_rows.tolist()) - judges
    assert aids.hard is not None
    assert not set((aids.hard.chosen // len(data.texts)).tolist()) & judges


def test_a_teacher_that_is_needed_but_not_given(encoder: TextEncoder) -> None:
    texts, pairs = clustered_world()
    for name in ("hard_negatives", "behaviour_alignment"):
        with pytest.raises(SettingsError, match=f"finetune.{name} is above 0"):
            finetune(encoder, texts, pairs, QUICK.model_copy(update={name: 1}))


def test_items_of_one_text_are_taught_as_one(encoder: TextEncoder) -> None:
    texts, pairs = clustered_world()
    doubled = [texts[0], "", texts[0], *texts[1:]]  # items 0 and 2 have one text, item 1 has none
    shifted = NextItemPairs(
        pairs.anchor_rows + 2, pairs.positive_rows + 2, pairs.user_rows, pairs.gaps, pairs.moments
    )  # fmt: skip

    class Neighbour(ClusterTeacher):
        def neighbours(self, user_rows: np.ndarray, n: int) -> np.ndarray:
            return np.tile(np.array([2, 1, 3, -1]), (len(doubled), 1))

    data = FinetuneData.of(encoder, doubled, shifted, QUICK.model_copy(update={"hard_negatives": 1}), 0)
    hard = Aids.of(data, Neighbour(), None).hard
    assert hard is not None
    assert hard.neighbours[:2].tolist() == [[-1, -1, 1, -1], [0, -1, -1, -1]]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_share_that_is_asked_for_is_kept(encoder: TextEncoder, share: float) -> None:
    texts, pairs = clustered_world()
    result = finetune(encoder, texts, pairs, QUICK.model_copy(update={"keep_pretrained": share}), 3)
    assert (result.kept, result.pretrained_share) == ("fine-tuned", share), result.reason
    assert isinstance(result.encoder, BlendedEncoder if share else TextEncoder)
    assert result.encoder.embedding_size == encoder.embedding_size * (2 if share else 1)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_part_that_rounding_would_lose_is_refused(share: float) -> None:
    with pytest.raises(ValidationError, match=f"keep_pretrained {share} must be 0 or from 0.05 to 0.95"):
        FinetuneSettings(keep_pretrained=share)


def test_a_blend_that_is_kept_encodes_by_both(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, pairs = clustered_world()
    data = FinetuneData.of(encoder, texts, pairs, QUICK, 3)
    pretrained, candidate = _train_stages(data, Aids())
    result = _judge(data, pretrained, dataclasses.replace(candidate, pretrained_share=0.2), 0.0)
    assert (result.kept, result.pretrained_share) == ("fine-tuned", 0.2), result.reason
    assert isinstance(result.encoder, BlendedEncoder)
    np.testing.assert_allclose(result.encoder.encode(texts), blend(candidate.embeddings, pretrained, 0.2), atol=1e-5)
    assert result.finetuned_score == data.verdict.ndcg(blend(candidate.embeddings, pretrained, 0.2)).mean()
