"""What was judged, and how it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recsys.report.parts import Figures, Section, Table, count, fact_table, moment, number, plain_value, signed
from recsys.report.plots import bars

_TASKS = {
    "static": "One list a user at the cut; right are new items that the user likes from then on.",
    "live": "One list before each moment at which a user acts after the cut; right are new items that it likes then.",
    "loo": "One list a user; right is the last new item by the user's own order. Training saw all but the last two.",
    "repeat": (
        "One list before each moment at which a user acts after the cut, without a clock before each user's last "
        "moment; right are all liked items of that moment, those of the history too, and lists may hold them."
    ),
    "stream": (
        "The lists of live, from a service that reads histories from its event store: all events after the cut are "
        'posted in the order of time, each after what is asked at its time. "product, live" is the same model given '
        "the histories."
    ),
}
_VERDICTS = {"better": "is better than", "worse": "is worse than"}
_WRITTEN_OUT = ("seconds", "encoder", "sources", "ranker", "ranker_reason", "gating")


def verdict(figures: Figures) -> str:
    """The product against its best source, in one sentence."""
    found = figures["against_best_source"]
    return (
        f"The product {_VERDICTS.get(found['verdict'], 'is not clearly different from')} its best source, "
        f"{found['source']}: NDCG@10 {signed(found['difference'])} (95 % interval {signed(found['low'])} to "
        f"{signed(found['high'])}, p = {number(found['p_value'], 3)})."
    )


def judged(figures: Figures) -> Section:
    """The data set, the task and the settings."""
    task, data = figures["task"], figures["data"]
    by_type = {f"of type {name}": total for name, total in data["events_by_type"].items()}
    times = {"first event": moment(data["first_event"]), "last event": moment(data["last_event"])}
    facts = {
        "queries": task["queries"], "users asked for": task["users"],
        "events to learn from": task["train_events"], **by_type, "users to learn from": data["train_users"],
        "items": task["items"],
        "items with a text": data["items_with_text"],
        "items in no event to learn from": task["cold_items"], "rejected rows": data["rejected_rows"],
    }  # fmt: skip
    run = {
        "product version": figures["product_version"], "task": task["kind"], "cut": moment(task["cut"]),
        "seed of training": str(figures["settings"]["seed"]), "seed of resampling": str(figures["seed"]),
        "data fingerprint": figures["fingerprint"][:16],
    }  # fmt: skip
    lead = (
        _TASKS.get(task["kind"], f"Task {task['kind']}."),
        "Lists rank the whole catalogue, without sampled negatives. Intervals (95 %) resample users, not queries.",
    )
    tables = (
        fact_table("Data set", facts | (times if task["cut"] is not None else {})),
        fact_table("Run", run),
        _changed(figures),
    )
    return Section("judged", "What was judged", lead, tables=tables)


def training(figures: Figures) -> Section:
    """What training chose, and what each of its stages cost."""
    report = figures["training"]
    stages = report.get("seconds", {})
    plots = (bars("stages", list(stages), list(stages.values()), "seconds"),) if stages else ()
    return Section("training", "Training", tuple(_training_lead(figures)), plots, tuple(_training_tables(figures)))


def _training_lead(figures: Figures) -> Iterator[str]:
    report, seconds = figures["training"], figures["seconds"]
    if "encoder" in report:
        encoder = report["encoder"]
        yield f"Text encoder: {plain_value(encoder.get('kept'))} ({plain_value(encoder.get('reason'))})."
    if "ranker_reason" in report:
        yield f"No learned ranker: {report['ranker_reason']}."
    lists = max(figures["task"]["queries"], 1)
    yield (
        f"Training took {number(seconds['train'], 1)} s, all lists {number(seconds['answer'], 1)} s: "
        f"{number(1000 * seconds['answer'] / lists, 1)} ms a list on one thread."
    )
    peak = figures.get("peak_memory_mb")
    if peak is not None:
        yield f"The process held {count(peak)} MiB of memory at most, from its start to the end of lists and studies."


def _training_tables(figures: Figures) -> Iterator[Table]:
    report = figures["training"]
    if "encoder" in report:
        yield fact_table("Text encoder", report["encoder"])
    if report.get("sources"):
        rows = tuple(
            (name, number(own.get("window_ndcg@10")), plain_value(own.get("settings")))
            for name, own in report["sources"].items()
            if isinstance(own, Mapping)
        )
        yield Table(
            "Sources: settings chosen on the oldest label window", ("source", "NDCG@10", "settings"), rows, is_text=True
        )
    if "ranker" in report:
        ranker = dict(report["ranker"])
        best_first = sorted(ranker.pop("held_out_ndcg@10", {}).items(), key=lambda pair: -(pair[1] or 0.0))
        if best_first:
            ordered = tuple((name, number(value)) for name, value in best_first)
            yield Table("On held-out users of the training part", ("order by", "NDCG@10"), ordered)
        yield fact_table("Ranker", {name: value for name, value in ranker.items() if name != "gains"})
    if "gating" in report:
        tried = tuple(
            (name, signed(own["ndcg@10"]), number(own["error"]), signed(own["recall@50"]), plain_value(own["dropped"]))
            for name, own in report["gating"]["without"].items()
        )
        head = ("without", "NDCG@10", "standard error", "recall@50", "dropped")
        yield Table("Gating: what training lists gain without a part", head, tried)
    others = {name: value for name, value in report.items() if name not in _WRITTEN_OUT}
    if others:
        yield fact_table("Further facts of the training run", others)
    if report.get("seconds"):
        spent = tuple((name, number(value, 1)) for name, value in report["seconds"].items())
        yield Table("Cost of the stages", ("stage", "seconds"), spent)


def _changed(figures: Figures) -> Table:
    changed = figures["changed_settings"]
    caption = "Settings that differ from the defaults" if changed else "All settings are the defaults"
    rows = tuple((key, plain_value(value)) for key, value in changed.items())
    return Table(caption, ("setting", "value"), rows, is_text=True)
