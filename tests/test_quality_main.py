"""`make quality` from outside: it runs what is not there yet, says what is absent, and rewrites its regions alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import quality.__main__ as program
import world
from quality.document import markers
from quality.plan import QualityTask
from quality.runs import Run

PLAN = """
seeds = [0, 1]
experiments = ["ablations"]

[[task]]
name = "Books"
folder = "books"
task = "static"
must = 0.9

[[task]]
name = "Films"
folder = "films"
task = "live"
"""
SETTINGS = ("sources=popularity,transitions", "ranker=by_score", "encoder.model=none", "threads=1")
REGIONS = ("results", "encoder", "ablations", "robustness", "learning-curve")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    world.write_world(tmp_path / "sets" / "books")
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "quality.md").write_text("# Mine\n\n" + "\n\nprose\n\n".join("\n".join(markers(n)) for n in REGIONS))
    return tmp_path


def call(place: Path, *arguments: str) -> Result:
    options = ["--data", place / "sets", "--plan", place / "plan.toml", "--runs", place / "runs"]
    options += ["--logs", place / "logs"]
    options += ["--document", place / "quality.md", *(part for s in SETTINGS for part in ("--set", s)), *arguments]
    return CliRunner().invoke(program.main, [str(option) for option in options])


def test_runs_once_and_writes_its_tables(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call(place, "--only", "books")
    assert done.exit_code == 0, done.output
    assert done.output.count("running ...") == 2
    assert "Films, live: absent: no folder films here, 0 of 2 seeds kept" in done.output
    text = (place / "quality.md").read_text()
    assert text.startswith("# Mine\n")
    assert text.count("\n\nprose\n\n") == len(REGIONS) - 1
    assert "| without transitions |" in text
    assert "| absent: no folder films here |" in text
    made = [json.loads(path.read_text()) for path in sorted((place / "runs").glob("*.json"))]
    assert [result["run"]["experiments"] for result in made] == [["ablations"], []]
    assert all(result["evaluation"]["task"]["kind"] == "static" for result in made)
    assert all(result["cost"]["seconds"] > 0 and result["cost"]["peak_mb"] > 50 for result in made)
    whole = [json.loads(path.read_text()) for path in sorted((place / "logs").glob("*.json"))]
    assert all("examples" in evaluation for evaluation in whole)
    shown = {user["user"] for user in whole[0]["examples"]["best"]}
    assert shown, "the whole evaluation names users"
    assert all("examples" not in result["evaluation"] for result in made), "what is kept in git names none"
    monkeypatch.setattr(program, "execute", lambda *_: pytest.fail("nothing is left to run"))
    again = call(place, "--only", "books")
    assert again.exit_code == 0, again.output
    assert again.output.count(", kept") == 2
    assert (place / "quality.md").read_text() == text
    for asked in (["--tables", "--set", "threads=2"], ["--only", "books", "--seed", "1"], ["--tables", "--seed", "1"]):
        kept = call(place, *asked)
        assert kept.exit_code == 0, kept.output
        assert (place / "quality.md").read_text() == text, "what was not asked for stays"
    assert "Books, static: not asked for, 2 of 2 seeds kept" in kept.output
    other = call(place, "--tables", "--set", "retrieval.per_source=50")
    assert "Books, static: not asked for, 0 of 2 seeds kept" in other.output, "figures of other settings are others"


def test_a_data_set_that_is_not_here_cannot_be_asked_for(place: Path) -> None:
    refused = call(place, "--only", "book")
    assert refused.exit_code == 2
    assert (
        "--only book: no such data set; here are books, ifdb_interactive_fiction, online_retail_uci" in refused.output
    )


def test_a_run_that_fails_is_said_and_the_others_go_on(place: Path) -> None:
    failed = call(place, "--only", "books", "--seed", "0", "--set", "retrieval.per_source=0")
    assert failed.exit_code == 2
    assert "per_source" in failed.output
    done = call(place, "--only", "books", "--seed", "0", "--set", "sources=text_profile")
    assert done.exit_code == 1
    assert "Books, static seed 0: exit code 2; see" in done.output
    assert "failed: seed 0" in (place / "quality.md").read_text()
    assert not any((place / "runs").iterdir())
    (log,) = (place / "logs").iterdir()
    assert "work on texts" in log.read_text()


def run(place: Path, **changes: object) -> Run:
    values = {"task": QualityTask("Books", "books", "static"), "data": place / "sets" / "books", "seed": 0}
    values |= {"settings": SETTINGS, "experiments": (), "data_digest": "d", "code_digest": "c"}
    return Run(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"settings": (*SETTINGS, "retrieval.per_source=50")},
        {"experiments": ("ablations",)},
        {"data_digest": "other"},
        {"code_digest": "other"},
        {"task": QualityTask("Books", "books", "live")},
        {"task": QualityTask("Books", "books", "static", "purchase")},
    ],
)
def test_what_decides_the_figures_decides_the_file(place: Path, change: dict[str, object]) -> None:
    assert run(place, **change).file_name != run(place).file_name
    assert run(place, data=place / "elsewhere").file_name == run(place).file_name
