"""How good the lists are, for whom, and what they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from recsys.report.parts import Figures, Section, Table, count, interval, number, percent, plain_value, signed
from recsys.report.plots import Point, bars, whiskers

_PRODUCT = "product"
_METRICS = ("hit@10", "recall@10", "recall@50", "mrr@10", "cold_recall@10", "cold_recall@50")
_TOP_FEATURES = 20


def systems(figures: Figures) -> Section:
    """The product, its sources and popularity side by side."""
    found = figures["systems"]
    points = [Point(s["name"], s["ndcg@10"], s["ndcg@10_low"], s["ndcg@10_high"]) for s in found]
    rows = tuple(
        (
            s["name"], number(s["ndcg@10"]), interval(s["ndcg@10_low"], s["ndcg@10_high"]),
            *(number(s[metric]) for metric in _METRICS), percent(s["coverage@10"]),
        )
        for s in found
    )  # fmt: skip
    head = ("system", "NDCG@10", "95 % interval", *(metric.replace("_", " ") for metric in _METRICS), "coverage@10")
    paths = ", ".join(f"{name.replace('_', ' ')} {count(total)}" for name, total in figures["strategies"].items())
    lead = (
        f"Each source alone ranks by its own score. The product's lists were made by: {paths}.",
        "Cold recall is that of items without any event in training.",
    )
    plot = whiskers("systems", points, "NDCG@10")
    tables = (Table("Metrics", head, rows), *_buy_again(figures))
    return Section("systems", "Product, sources and popularity", lead, (plot,), tables)


def _buy_again(figures: Figures) -> Iterator[Table]:
    """The product against what every shop can offer; nothing for tasks that leave out the history."""
    found = figures.get("against_buy_again") or {}
    rows = tuple(
        (
            name, signed(own["difference"]), interval(own["low"], own["high"], sign=True), number(own["p_value"], 3),
            own["verdict"],
        )
        for name, own in found.items()
    )  # fmt: skip
    if rows:
        head = ("system", "product ahead, NDCG@10", "95 % interval", "p", "verdict")
        yield Table('The product against "buy it again", the items of the history in a plain order', head, rows)


def slices(figures: Figures) -> Section | None:
    """The product and the best source, by user and by item."""
    parts = [(by, list(rows)) for by, rows in groupby(figures["slices"], key=lambda row: row["by"])]
    lead = (
        "A query is judged in a slice by those of its right items that are in it, and left out where it has none.",
        "Whether the product is ahead in a slice is answered by the interval of the difference, not by the two others.",
        "The head is the fewest items that hold half of the training events, the tail all others that have any.",
    )
    plots = tuple(_slice_plot(f"slices-{n}", by, rows) for n, (by, rows) in enumerate(parts))
    tables = tuple(_slice_table(by, rows) for by, rows in parts)
    return Section("slices", "For whom, and for which items", lead, plots, tables) if parts else None


def _slice_plot(name: str, by: str, rows: list[Figures]) -> str:
    points = [Point(row["slice"], row["ndcg@10"], row["low"], row["high"], row["system"]) for row in rows]
    return whiskers(name, points, f"NDCG@10 by {by}")


def _slice_table(by: str, rows: list[Figures]) -> Table:
    head = (
        "slice", "queries", "users", "system", "NDCG@10", "95 % interval", "recall@10", "recall@50", "product ahead",
        "95 % interval",
    )  # fmt: skip
    cells = tuple(
        (
            row["slice"], count(row["queries"]), count(row["users"]), row["system"], number(row["ndcg@10"]),
            interval(row["low"], row["high"]), number(row["recall@10"]), number(row["recall@50"]), *_ahead(row),
        )
        for row in rows
    )  # fmt: skip
    return Table(f"By {by}", head, cells)


def _ahead(row: Figures) -> tuple[str, str]:
    """How far the product is ahead of the row's system: nothing to say of its own row."""
    if row["system"] == _PRODUCT:
        return "", ""
    low, high = row["product_ahead_low"], row["product_ahead_high"]
    return signed(row["product_ahead"]), interval(low, high, sign=True)


def beyond_accuracy(figures: Figures) -> Section:
    """Coverage, novelty, diversity and popularity of the shown items."""
    found = figures["beyond_accuracy"]
    names = {
        "coverage@10": "share of the catalogue shown", "novelty@10": "novelty, bits",
        "diversity@10": "diversity within a list", "popularity_lift": "popularity against the history's",
    }  # fmt: skip
    plots = tuple(
        bars(f"beyond-{n}", [s["system"] for s in found["systems"]], [s[key] or 0.0 for s in found["systems"]], label)
        for n, (key, label) in enumerate(names.items())
    )
    rows = tuple(
        (
            s["system"], count(s["distinct@10"]), percent(s["coverage@10"]), number(s["novelty@10"], 2),
            number(s["diversity@10"], 3), percent(s["popularity@10"], 2), signed(s["popularity_lift"], 2),
        )
        for s in found["systems"]
    )  # fmt: skip
    head = ("system", "items shown", "coverage", "novelty", "diversity", "popularity", "popularity lift")
    lead = (
        (
            "Novelty is the mean self-information of a shown item, -log2 of the share of users who have it: the "
            "higher, the less known it is."
        ),
        f"Diversity is the mean distance (1 - cosine) between two items of a list, by {found['diversity_by']}.",
        (
            "Popularity is the mean share of users who have a shown item. The lift sets it against the users' own "
            f"items, of which it is {percent(found['history_popularity'], 2)}: at 0 lists are as popular as these, at "
            "1 twice as popular."
        ),
    )
    return Section("beyond", "Beyond accuracy", lead, plots, (Table("Of the first ten items", head, rows),))


def contributions(figures: Figures) -> Section:
    """Which features make the scores."""
    found = figures["contributions"]
    title = "What the ranker looks at"
    if found is None:
        reason = figures["training"].get("ranker_reason", "the settings say so")
        return Section("features", title, (f"There is no forest to look into: {plain_value(reason)}.",))
    features, groups = found["features"][:_TOP_FEATURES], found["groups"]
    plots = (
        bars("groups", [g["group"] for g in groups], [g["mean_abs"] for g in groups], "mean |contribution|"),
        bars(
            "features", [f["feature"] for f in features], [f["mean_abs"] for f in features], "mean |contribution|",
            [f["group"] for f in features],
        ),
    )  # fmt: skip
    lead = (
        (
            f"Contributions (TreeSHAP) to the scores of {count(found['items'])} items in {count(found['lists'])} "
            "lists: how far a feature moves a score on average, whichever way. Those of a group are added up first."
        ),
        (
            "The gain is the feature's share of what all splits brought in training. The direction is the correlation "
            "of the feature's value with its contribution: above 0, more of it raises the score."
        ),
    )
    return Section("features", title, lead, plots, (_group_table(groups), _feature_table(features)))


def _group_table(groups: list[Figures]) -> Table:
    rows = tuple(
        (g["group"], count(g["num_features"]), number(g["mean_abs"]), percent(g["gain_share"])) for g in groups
    )
    return Table("Feature groups", ("group", "features", "mean |contribution|", "gain"), rows)


def _feature_table(features: list[Figures]) -> Table:
    rows = tuple(
        (f["feature"], f["group"], number(f["mean_abs"]), percent(f["gain_share"]), signed(f["direction"], 2))
        for f in features
    )
    return Table("Features", ("feature", "group", "mean |contribution|", "gain", "direction"), rows)


def calibration(figures: Figures) -> Section | None:
    """Whether a higher score is a better chance."""
    bins = list(enumerate(reversed(figures["calibration"]), start=1))
    if not bins:
        return None
    labels = [f"{n}. {one['score_low']:.3g} to {one['score_high']:.3g}" for n, one in bins]
    points = [Point(labels[n - 1], one["hit_rate"], one["low"], one["high"]) for n, one in bins]
    rows = tuple(
        (
            labels[n - 1], count(one["shown"]), count(one["hits"]), percent(one["hit_rate"], 2),
            f"{percent(one['low'], 2)} to {percent(one['high'], 2)}",
        )
        for n, one in bins
    )  # fmt: skip
    lead = (
        "All items of all lists by score, highest first, in tenths of about equal size; equal scores stay together.",
        (
            "The ranker learns to order within a list, and nothing makes its scores comparable between lists. Where "
            "the hit rate falls steadily from the top down, they are."
        ),
    )
    plot = whiskers("calibration", points, "share of right items")
    table = Table("By score", ("score", "shown", "right", "hit rate", "95 % interval"), rows)
    return Section("calibration", "Scores and hits", lead, (plot,), (table,))


def examples(figures: Figures) -> Section | None:
    """Good and bad lists with titles."""
    found = figures["examples"]
    lead = (
        "The lists with the highest and the lowest NDCG@10 among users with a history, one a user.",
        "Of equally good ones, those with more right items come first.",
    )
    return Section("examples", "Good and bad lists", lead, examples=found) if any(found.values()) else None
