"""The tables of docs/quality.md, from figures made by hand."""

from __future__ import annotations

from typing import Any

from quality.plan import QualityTask
from quality.report import Line, regions
from quality.runs import Result

TASK = QualityTask("Books", "books", "live", "purchase", best_peer=0.05, must=0.1, aim=0.2)
ROWS = [
    {"name": "without linear", "difference": -0.02, "low": -0.03, "high": -0.01},
    {"name": "without fine-tuning", "difference": 0.001, "low": -0.004, "high": 0.006},
]
CURVE = [{"share": 0.25, "ndcg@10": 0.05, "low": 0.04, "high": 0.06}]
ENCODER = {
    "kept": "fine-tuned", "reason": "better", "pretrained_score": 0.04, "finetuned_score": 0.1, "gain_error": 0.01,
    "num_held_out_users": 121,
}  # fmt: skip


def result(ndcg: float, source: str = "linear", **evaluation: Any) -> Result:
    against = {"source": source, "difference": ndcg / 2, "low": ndcg / 4, "high": ndcg}
    values = {
        "task": {"kind": "live"},
        "systems": [{"name": "product", "ndcg@10": ndcg, "cold_recall@10": 0.03}],
        "against_best_source": against,
        "seconds": {"train": 90.0},
        "training": {"encoder": ENCODER},
    }
    run = {"product": "0.1-abc", "changed_settings": ["threads=1"]}
    return {"run": run, "cost": {"seconds": 1.0, "peak_mb": 2048}, "evaluation": values | evaluation}


def cells(table: str, row: int = 2) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[row].strip("|").split("|")]


def test_the_result_line_has_seeds_mean_spread_goal_and_the_widest_interval() -> None:
    found = regions([Line(TASK, {1: result(0.16, "als"), 0: result(0.12)})])["results"]
    assert cells(found) == [
        "Books (`--events purchase`)", "live", ".0500", ".1000", ".2000", ".1200, .1600", ".1400 ± .0283", "must",
        "+0.0700 (+0.0300 to +0.1600) over als, linear", ".0300", "1.5 min", "2.0 GB",
    ]  # fmt: skip
    assert "shelftalk 0.1-abc; settings: threads=1." in found


def test_runs_of_other_settings_are_said() -> None:
    plain = result(0.1)
    plain["run"]["changed_settings"] = []
    assert "settings: the defaults or threads=1." in regions([Line(TASK, {0: result(0.2), 1: plain})])["results"]


def test_one_seed_has_no_spread_and_no_goal_needs_none() -> None:
    found = cells(regions([Line(QualityTask("Books", "books"), {0: result(0.01)})])["results"])
    assert (found[1], found[2], found[6], found[7]) == ("live", "", ".0100", "")


def test_a_goal_that_is_missed_is_named() -> None:
    assert cells(regions([Line(TASK, {0: result(0.01)})])["results"])[7] == "none"
    assert cells(regions([Line(TASK, {0: result(0.06)})])["results"])[7] == "best peer"


def test_what_was_not_measured_is_said() -> None:
    lines = [
        Line(TASK, {}, "absent: no folder books here"),
        Line(TASK, {}),
        Line(TASK, {0: result(0.1)}, "failed: seed 1"),
    ]
    found = regions(lines)
    assert cells(found["results"])[5] == "absent: no folder books here"
    assert cells(found["results"], 3)[5] == "not measured yet"
    assert cells(found["results"], 4)[5] == ".1000 (failed: seed 1)"
    assert found["ablations"] == found["robustness"] == found["learning-curve"] == "Not measured yet."
    assert regions(lines[:2])["encoder"] == "Not measured yet."


def test_ablations_stand_side_by_side_and_clear_differences_are_bold() -> None:
    other = QualityTask("Films", "films", "loo")
    lines = [Line(TASK, {0: result(0.1, ablations=ROWS)}), Line(other, {0: result(0.1, ablations=ROWS[:1])})]
    table = regions(lines)["ablations"]
    assert cells(table, 0) == ["", "Books (`--events purchase`), live", "Films, loo"]
    assert cells(table) == ["without linear", *["**-0.0200 (-0.0300 to -0.0100)**"] * 2]
    assert cells(table, 3) == ["without fine-tuning", "+0.0010 (-0.0040 to +0.0060)", ""]


def test_the_encoders_verdict_and_what_it_is_worth_to_the_lists() -> None:
    table = regions([Line(TASK, {0: result(0.1, ablations=ROWS)})])["encoder"]
    assert cells(table)[2:] == [".0400", ".1000 ± .0196 (fine-tuned kept)", "121", "+0.0010 (-0.0040 to +0.0060)", ""]
    none = {"kept": "none", "reason": "the catalogue has no text"}
    table = regions([Line(TASK, {0: result(0.1, training={"encoder": none})})])["encoder"]
    assert cells(table)[3] == "none: the catalogue has no text"


def test_noise_and_learning_curve() -> None:
    noisy = [{"name": "typos", "difference": 0.0, "low": 0.0, "high": 0.0, "overlap@10": 0.9, "rbo": 0.8}]
    found = regions([Line(TASK, {0: result(0.1, robustness=noisy, learning_curve=CURVE)})])
    assert cells(found["robustness"]) == ["typos", "+0.0000 (+0.0000 to +0.0000), overlap 0.90, RBO 0.80"]
    assert cells(found["learning-curve"]) == ["25% of the users", ".0500 (.0400 to .0600)"]
