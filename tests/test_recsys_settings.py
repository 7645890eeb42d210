"""Settings: later origins win, an unknown key is an error that helps, and values are read as the key expects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from recsys.errors import SettingsError
from recsys.settings import Settings, flat_settings, load_settings, settings_from


def load(*assignments: str, file: Path | None = None, **environment: str) -> Settings:
    return load_settings(file, assignments, environment)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('seed = 1\nsources = ["als"]\n[lambdamart]\nnum_trees = 10\nlearning_rate = 0.2\n')
    return path


class TestOrigins:
    def test_without_any_the_defaults_hold(self) -> None:
        assert load() == Settings()

    def test_a_file_then_the_environment_then_assignments(self, toml: Path) -> None:
        from_file = load(file=toml)
        assert (from_file.seed, from_file.lambdamart.num_trees, from_file.sources) == (1, 10, ("als",))
        assert load(file=toml, RECSYS_SEED="2").seed == 2
        found = load("seed=3", file=toml, RECSYS_SEED="2", RECSYS_LAMBDAMART__NUM_TREES="20")
        assert (found.seed, found.lambdamart.num_trees, found.lambdamart.learning_rate) == (3, 20, 0.2)

    def test_the_last_assignment_wins(self) -> None:
        assert load("seed=3", "seed=4").seed == 4

    def test_variables_that_are_no_settings_are_let_be(self) -> None:
        assert load(RECSYS_BUNDLE="x", RECSYS_API_KEYS="y", RECSYS_STORE="z", OTHER="1", RECSYS="2") == Settings()

    def test_a_group_is_changed_key_by_key(self) -> None:
        found = load("lambdamart.num_trees=7").lambdamart
        assert found == Settings().lambdamart.model_copy(update={"num_trees": 7})

    def test_a_table_is_added_to(self, tmp_path: Path) -> None:
        (tmp_path / "s.toml").write_text("[events.weights]\nview = 0.5\n")
        found = load(
            "events.weights.wishlist=2", file=tmp_path / "s.toml", RECSYS_EVENTS__WEIGHTS__CART="9"
        ).events.weights
        assert found == Settings().events.weights | {"view": 0.5, "wishlist": 2.0, "cart": 9.0}


class TestValues:
    @pytest.mark.parametrize("text", ["als,linear", "als, linear", '["als", "linear"]'])
    def test_lists_in_three_ways(self, text: str) -> None:
        assert load(f"sources={text}").sources == ("als", "linear")

    def test_a_lone_value_is_a_list_where_one_is_expected(self) -> None:
        assert load("sources=als").sources == ("als",)
        assert load("retrieval.als.half_life=5").retrieval.als.half_life == (5.0,)
        assert load("retrieval.als.half_life=null").retrieval.als.half_life == (None,)
        assert load("retrieval.als.half_life=[null, 2]").retrieval.als.half_life == (None, 2.0)

    def test_text_stays_text(self) -> None:
        assert load("encoder.model=/models/a,b").encoder.model == "/models/a,b"
        assert load("encoder.model=123").encoder.model == "123"
        assert load("encoder.model=a=b").encoder.model == "a=b"

    def test_truth_values_and_numbers(self) -> None:
        found = load("serve.exclude_seen=false", "lambdamart.learning_rate=1e-2", "threads=3")
        assert (found.serve.exclude_seen, found.lambdamart.learning_rate, found.threads) == (False, 0.01, 3)

    def test_settings_are_frozen(self) -> None:
        with pytest.raises(ValidationError):
            Settings().seed = 1


class TestErrors:
    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("sed=1", r"unknown setting 'sed' \(did you mean 'seed'\?\).*recsys settings"),
            ("lambdamart.num_tree=1", r"unknown setting 'lambdamart\.num_tree' \(did you mean 'lambdamart\.num_trees'"),
            ("zzz=1", r"unknown setting 'zzz'\."),
            ("seed", "expected key=value"),
            ("seed=x", "setting 'seed' = 'x'"),
            ("seed=-1", "setting 'seed' = '-1'.*greater than or equal to 0"),
            ("seed=99999999999", "setting 'seed'.*less than"),
            ("threads=0", "setting 'threads' = '0'"),
            ("ranker=bm25", "setting 'ranker' = 'bm25'.*by_score"),
            ("sources=als,bm25", "sources: unknown bm25; allowed are linear"),
            ("sources=als,als", "sources: repeated als"),
            ("sources=[]", "sources: empty"),
            ("lambdamart=3", "setting 'lambdamart' = '3'"),
            ("seed.x=3", "setting 'seed'"),
            ("lambdamart.learning_rate=NaN", "learning_rate' = nan: must be a finite number"),
            ("lambdamart.l2=Infinity", "l2' = inf: must be a finite number"),
            ("=1", "unknown setting ''"),
        ],
    )
    def test_bad_assignments(self, assignment: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            load(assignment)

    def test_every_bad_key_is_named_at_once(self) -> None:
        with pytest.raises(SettingsError, match=r"'sed'.*'thread'"):
            settings_from({"sed": 1, "thread": 2})

    def test_an_unknown_variable(self) -> None:
        with pytest.raises(SettingsError, match="unknown setting 'sed'"):
            load(RECSYS_SED="1")

    def test_a_value_used_as_a_group(self) -> None:
        with pytest.raises(SettingsError, match="'seed' is a value, not a group"):
            load("seed=1", "seed.x=2")

    @pytest.mark.parametrize(
        ("content", "message"), [(b"seed = ", "is not TOML"), (b"\xff", "is not TOML"), (b"sed = 1", "'sed'")]
    )
    def test_bad_files(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "s.toml").write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            load(file=tmp_path / "s.toml")

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="does not exist"):
            load(file=tmp_path / "none.toml")
        with pytest.raises(SettingsError, match="can't be read"):
            load(file=tmp_path)


class TestFlat:
    def test_what_is_printed_can_be_set(self) -> None:
        """Every key that `recsys settings` prints, given back by --set, is the same tree."""
        printed = [f"{key}={json.dumps(value)}" for key, value in flat_settings(Settings())]
        assert load(*printed) == Settings()

    def test_keys_have_dots(self) -> None:
        keys = [key for key, _ in flat_settings(Settings())]
        assert {"seed", "lambdamart.num_trees", "retrieval.als.half_life", "events.weights.view"} <= set(keys)
        assert len(keys) == len(set(keys))
