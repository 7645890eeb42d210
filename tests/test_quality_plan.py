"""The plan of `make quality`: what is asked for, and which data are here."""

from __future__ import annotations

from pathlib import Path

import pytest

import quality
import world
from quality.plan import QualityTask, find_data, read_plan, tables, with_found


def test_the_plan_in_the_repository_is_read() -> None:
    plan = read_plan(Path(quality.__file__).with_name("sets.toml"))
    assert len(plan.seeds) == 3
    assert {task.folder for task in plan.tasks} >= {"ifdb_interactive_fiction", "online_retail_uci"}
    assert all(task.must is None or task.must > (task.best_peer or 0) for task in plan.tasks)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed = 1", "unknown seed; allowed are seeds"),
        ('[[task]]\nname = "x"', r"\[\[task\]\] x: folder is missing"),
        ('[[task]]\nname = "x"\nfolder = "y"\ntarget = 1', "unknown target; allowed are name, folder"),
    ],
)
def test_a_plan_with_a_mistake_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_plan(tmp_path / "plan.toml")


def test_data_sets_are_found_by_their_two_tables(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    world.write_world(first / "books")
    world.write_world(second / "books")
    world.write_world(second / "more")
    (first / "items_only").mkdir()
    (first / "items_only" / "items.csv").write_text("item_id\n")
    assert find_data([first, second]) == {"books": first / "books", "more": second / "more"}
    assert find_data([first / "books"]) == {"books": first / "books"}
    assert [path.name for path in tables(first / "books")] == ["items.csv", "events.csv"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; QUALITY_DATA"):
        find_data([tmp_path / "nowhere"])


def test_data_that_no_task_names_are_run_too() -> None:
    named = QualityTask("Books", "books", "live", must=0.5)
    assert with_found([named], ["more", "books"]) == (named, QualityTask("more", "more"))
