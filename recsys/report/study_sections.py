"""Studies that train or ask more than once: ablations, robustness, learning curve. Shown where they were made; of the
others the page says how to make them.
"""

from __future__ import annotations

from recsys.report.parts import Figures, Section, Table, interval, number, signed
from recsys.report.plots import Point, curve, whiskers
from recsys.splits import NOT_STUDIED

_LEADS = {
    "ablations": ("The product without one of its parts. Left of the line, the part is missed.",),
    "robustness": (
        "The same product asked with noisy input. Left of the line, the noise costs accuracy.",
        (
            "Overlap@10 is the share of the first ten items that the noisy and the clean list have in common. "
            "Rank-biased overlap (RBO) compares the whole lists, the upper ranks weighing most: 1 for equal lists, 0 "
            "for lists without a common item."
        ),
    ),
}
_LIKENESS = {"ablations": {}, "robustness": {"overlap@10": "overlap@10", "rbo": "RBO"}}
"""How much the lists change: the keys of a study's rows that say so, and the heads of their columns."""
_QUESTIONS = {
    "ablations": "what the lists lose without a source, a group of features, the fine-tuning or all text",
    "robustness": "how much the lists change and lose under noisy texts",
    "learning_curve": "what more users would bring",
}
"""What each study finds out."""


def comparison(figures: Figures, name: str) -> Section | None:
    """`ablations` or `robustness`: each variant against the full product, on the same queries."""
    found = figures.get(name) or ()
    if not found:
        return None
    points = [
        Point(row["name"], row["difference"], row.get("low"), row.get("high"))
        for row in found
        if row.get("difference") is not None
    ]
    likeness = _LIKENESS[name]
    rows = tuple(
        (
            row["name"], number(row["ndcg@10"]), signed(row.get("difference")),
            interval(row.get("low"), row.get("high"), sign=True), number(row.get("recall@50")),
            number(row.get("cold_recall@10")), *(number(row.get(key), 3) for key in likeness),
            number(row.get("seconds"), 1),
        )
        for row in found
    )  # fmt: skip
    head = (
        "variant", "NDCG@10", "difference", "95 % interval", "recall@50", "cold recall@10", *likeness.values(),
        "seconds",
    )  # fmt: skip
    plots = (whiskers(name, points, "difference of NDCG@10", zero=True),) if points else ()
    return Section(name, name.capitalize(), _LEADS[name], plots, (Table("Variants", head, rows),))


def learning_curve(figures: Figures) -> Section | None:
    """What more users would bring."""
    found = sorted(figures.get("learning_curve") or (), key=lambda row: row["share"])
    if not found:
        return None
    points = [(100 * row["share"], Point("", row["ndcg@10"], row.get("low"), row.get("high"))) for row in found]
    rows = tuple((f"{x:.0f} %", number(point.value), interval(point.low, point.high)) for x, point in points)
    plot = curve("learning-curve", points, "NDCG@10", "share of the users, %")
    table = Table("By share of the users", ("share", "NDCG@10", "95 % interval"), rows)
    lead = ("The product trained on a part of the users and judged on the same queries.",)
    return Section("learning_curve", "Learning curve", lead, (plot,), (table,))


def missing(figures: Figures) -> Section | None:
    """Which studies have no figures, and how to get them: a reader would not miss what is not there. The figures do not
    say whether a study without a row was asked for, so the page does not either.
    """
    rows = tuple(
        (name.replace("_", " "), question, _remedy(figures, name))
        for name, question in _QUESTIONS.items()
        if not figures.get(name)
    )
    if not rows:
        return None
    lead = ("These have no figures here: they were not asked for, or there was nothing to measure.",)
    table = Table("How to make them", ("study", "finds out", "flag of recsys evaluate"), rows, is_text=True)
    return Section("missing", "Studies without figures", lead, tables=(table,))


def _remedy(figures: Figures, name: str) -> str:
    """The flag that makes a study, or why none would."""
    kind = figures["task"]["kind"]
    if name in NOT_STUDIED.get(kind, ((), ""))[0]:
        return f"none: the task {kind} has no {name.replace('_', ' ')}"
    if name == "robustness" and figures["training"].get("encoder", {}).get("kept") == "none":
        return "none: the model reads no text"
    return f"--{name.replace('_', '-')}"
