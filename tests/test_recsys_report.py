"""The report: every kind of evaluation makes a whole page, and nothing that comes from outside gets out of its cell."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import world
from features.tables import Dataset
from handmade import TRAINED_UNTIL, USERS, handmade_catalogue, handmade_model
from recsys.__main__ import cli
from recsys.errors import SettingsError
from recsys.evaluation import EXPERIMENTS, evaluate
from recsys.report import list_sections, run_sections, study_sections
from recsys.report.page import render_report
from recsys.report.parts import MISSING, interval, number, percent, plain_value, signed
from recsys.report.plots import Point, bars, curve, whiskers
from recsys.settings import settings_from
from recsys.splits import NOT_STUDIED, TASKS
from test_recsys_evaluation import LATE, LEARNED, dataset

HOSTILE = '</bdi><script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7 * 7 }} $x^{2} \u202e\U0001f600 & "\''
_EMPTY = {"meta", "br", "img", "link", "input", "hr"}
_SHAPES = {"path", "use", "g", "rect"}


class Page(HTMLParser):
    """Elements, ids and texts of a page; fails where tags are not nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.ids, self.attributes, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in _SHAPES
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(evaluation) -> Page:
    """The page of what the JSON file would hold."""
    return Page(render_report(json.loads(json.dumps(evaluation.to_json(), allow_nan=False))))


def handmade_world():
    """As in the evaluation's own tests: four queries after the model's time."""
    return dataset([*LEARNED, *[("filler", "i00")] * 30, *LATE], TRAINED_UNTIL - len(LEARNED) - 29)


@pytest.fixture(scope="module")
def ranked(tiny_dataset, tiny_settings):
    return evaluate(tiny_dataset, tiny_settings, task="live")


@pytest.fixture(scope="module")
def page(ranked):
    return page_of(ranked)


def test_the_page_needs_nothing_from_elsewhere(page):
    assert not {"script", "link", "iframe", "object", "img", "form"} & set(page.tags)
    fetched = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset", "data")]
    assert fetched
    assert all(value.startswith("#") for value in fetched)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'") in (
        page.attributes
    )
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_ids_are_unique_and_links_lead_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    links = {value[1:] for name, value in page.attributes if name in ("href", "xlink:href")}
    clips = set(re.findall(r"url\(#([^)]+)\)", " ".join(str(value) for _, value in page.attributes)))
    assert links | clips <= set(page.ids)


def test_every_plot_is_described_and_every_table_has_a_caption_and_headings(page):
    assert page.tags.count("svg") >= 8
    assert page.attributes.count(("role", "img")) == page.tags.count("svg")
    assert page.tags.count("caption") == page.tags.count("table")
    assert sum(name == "scope" for name, _ in page.attributes) == page.tags.count("th")


def test_plots_wear_the_colours_of_the_page(ranked):
    text = ranked.to_html()
    assert "#00000" not in text
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    defined = [set(re.findall(r"--([\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)]
    assert len(defined) == 2
    assert all(used <= names for names in defined)


def test_the_page_says_what_the_figures_say(ranked, page):
    content = ranked.to_json()
    assert f"{content['systems'][0]['ndcg@10']:.4f}" in page.text
    for words in ("What was judged", "Product, sources and popularity", "For whom", "Beyond accuracy", "Training"):
        assert words in page.text
    for name in ("retrieval.per_source", "encoder.model", "fit ranker", "switched off", "category, brand"):
        assert name in page.text
    assert {row["system"] for row in content["slices"]} == {"product", ranked.best_source.name}
    assert content["contributions"]["lists"] == len(ranked.task)
    assert sum(one["hits"] for one in content["calibration"]) == round(ranked.product.mean("recall@50") * 64)


def test_costs_are_seconds_and_memory(ranked, page):
    assert f"{ranked.peak_memory_mb:,} MiB" in page.text
    unknown = {name: value for name, value in ranked.to_json().items() if name != "peak_memory_mb"}
    assert "MiB" not in Page(render_report(unknown)).text


def test_one_evaluation_gives_one_page(ranked):
    assert ranked.to_html() == dataclasses.replace(ranked).to_html()


def test_lists_are_kept_as_they_were_shown(ranked):
    lists = ranked.lists["product"]
    assert set(ranked.lists) == {system.name for system in ranked.systems}
    assert lists.item_rows.shape == lists.scores.shape == (len(ranked.task), 50)
    known = lists.item_rows >= 0
    assert np.array_equal(known, ~np.isnan(lists.scores))
    assert all(np.diff(own[shown]).max() <= 0 for own, shown in zip(lists.scores, known, strict=True))


@pytest.mark.parametrize("task", ["static", "loo"])
def test_every_task_has_a_page(tiny_dataset, tiny_settings, task):
    text = page_of(evaluate(tiny_dataset, tiny_settings, task=task)).text
    assert "For whom" in text
    assert ("first event" in text) == (task == "static")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_described(ranked, task):
    """By more than its name, which is what stands there for a kind that the page does not know."""
    figures = ranked.to_json()
    described = run_sections.judged({**figures, "task": {**figures["task"], "kind": task}}).lead[0]
    assert described != f"Task {task}."


def test_the_page_of_repeats_compares_with_buying_again(page):
    evaluation = evaluate(handmade_world(), task="repeat", model=handmade_model())
    found = evaluation.against_buy_again["buy_again_frequency"]
    table = list_sections.systems(evaluation.to_json()).tables[1]
    cells = {row[0]: row[1:] for row in table.rows}
    assert set(cells) == {"buy_again_recency", "buy_again_frequency"}
    assert cells["buy_again_frequency"] == (
        f"{found.difference:+.4f}",
        f"{found.interval.low:+.4f} to {found.interval.high:+.4f}",
        f"{found.p_value:.3f}",
        found.verdict,
    )
    title = 'The product against "buy it again"'
    assert title in page_of(evaluation).text
    assert title not in page.text


def test_without_a_clock_and_without_text(tmp_path, tiny_tree):
    """Ids alone: no slice by text, and what is alike is so by who has it."""
    folder = world.write_world(tmp_path, clock=False)
    world.write_table(folder / "items.csv", [{"item_id": row["item_id"]} for row in world.item_rows()])
    settings = settings_from({**tiny_tree, "sources": ["linear", "popularity"]})
    text = page_of(evaluate(Dataset.load(folder), settings)).text
    assert "co-occurrence in users' histories" in text
    assert "text-rich" not in text
    assert "By history length" in text


def test_without_a_forest_the_page_says_why():
    evaluation = evaluate(handmade_world(), task="live", model=handmade_model())
    assert evaluation.to_json()["contributions"] is None
    assert "There is no forest to look into: made by hand." in page_of(evaluation).text


def test_a_single_query_is_enough():
    one = dataset([*LEARNED, *[("filler", "i00")] * 30, (USERS[0], "i03")], TRAINED_UNTIL - len(LEARNED) - 29)
    evaluation = evaluate(one, task="live", model=handmade_model(trained_until=one.events.times[0]))
    assert len(evaluation.task) == 1
    assert "Good and bad lists" in page_of(evaluation).text


def test_text_embeddings_make_the_diversity_where_there_are_some():
    evaluation = evaluate(handmade_world(), task="live", model=handmade_model())
    assert evaluation.to_json()["beyond_accuracy"]["diversity_by"] == "text embeddings"


def test_hostile_titles_stay_text():
    catalogue = handmade_catalogue()
    catalogue.frame["title"] = HOSTILE
    page = page_of(evaluate(handmade_world(), task="live", model=handmade_model(catalogue=catalogue)))
    assert not {"script", "img"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert " ".join(HOSTILE.split()) in page.text


def test_hostile_columns_and_event_types_stay_text(tmp_path, tiny_tree):
    """The name of a column becomes that of a feature, and stands in plots, where $ would begin a formula."""
    folder = world.write_world(tmp_path)
    items = [{**row, HOSTILE: str(number % 7)} for number, row in enumerate(world.item_rows())]
    world.write_table(folder / "items.csv", items)
    events = [{**row, "event": "<b>view</b>"} for row in world.event_rows()]
    world.write_table(folder / "events.csv", events)
    evaluation = evaluate(Dataset.load(folder), settings_from(tiny_tree))
    names = [row["feature"] for row in evaluation.to_json()["contributions"]["features"]]
    assert f"item:ahead:{HOSTILE}" in names
    first = {
        **evaluation.to_json()["contributions"],
        "features": [{**f, "mean_abs": 1.0} for f in _hostile_first(evaluation)],
    }
    page = Page(render_report({**evaluation.to_json(), "contributions": first}))
    assert not {"script", "img", "b"} & set(page.tags)
    assert "<b>view</b>" in page.text
    assert " ".join(f"item:ahead:{HOSTILE}".split()) in page.text


def _hostile_first(evaluation):
    features = evaluation.to_json()["contributions"]["features"]
    return sorted(features, key=lambda row: HOSTILE not in row["feature"])


VARIANTS = [
    {"name": "without <text>", "ndcg@10": 0.5, "difference": -0.25, "low": -0.3, "high": -0.2, "recall@50": 0.75,
     "cold_recall@10": None, "seconds": 12.0},
    {"name": "full", "ndcg@10": 0.75, "difference": None, "low": None, "high": None, "recall@50": 0.875,
     "cold_recall@10": 0.125, "seconds": 30.0},
]  # fmt: skip
NOISY = [{**VARIANTS[0], "name": "typos", "overlap@10": 0.6875, "rbo": 0.5625}]
CURVE = [{"share": 1.0, "ndcg@10": 0.75, "low": 0.7, "high": 0.8}, {"share": 0.25, "ndcg@10": 0.5}]


def remedies(figures) -> dict[str, str]:
    """How the page says that studies which it does not show are made."""
    section = study_sections.missing(figures)
    return {row[0]: row[-1] for row in section.tables[0].rows} if section else {}


def test_what_was_not_made_is_named_with_the_flag_that_makes_it(ranked, page):
    """Every experiment that there is, by a flag that the command knows."""
    assert "Studies without figures" in page.text
    known = {option for parameter in cli.commands["evaluate"].params for option in parameter.opts}
    figures = ranked.to_json() | {"training": {}}
    assert [name.replace(" ", "_") for name in remedies(figures)] == list(EXPERIMENTS)
    assert set(remedies(figures).values()) <= known
    assert list(remedies(figures | {"ablations": VARIANTS, "learning_curve": CURVE})) == ["robustness"]
    made = figures | {"ablations": VARIANTS, "robustness": NOISY, "learning_curve": CURVE}
    assert "Studies without figures" not in Page(render_report(made)).text


@pytest.mark.parametrize("kind", TASKS)
def test_no_flag_is_named_that_would_be_refused(ranked, tiny_dataset, kind):
    figures = ranked.to_json() | {"training": {}}
    figures["task"] = figures["task"] | {"kind": kind}
    lacking = set(NOT_STUDIED.get(kind, ((), ""))[0])
    named = {name.replace(" ", "_") for name, remedy in remedies(figures).items() if not remedy.startswith("--")}
    assert named == lacking
    for experiment in lacking:
        with pytest.raises(SettingsError, match=f"the task {kind} has no {experiment}: .* another task"):
            evaluate(tiny_dataset, task=kind, experiments=[experiment])


def test_no_flag_is_named_that_would_find_nothing(ranked):
    """The tiny world's model reads no text, and ablations of the task repeat are refused."""
    assert ranked.model.encoder is None
    assert "--" not in remedies(ranked.to_json())["robustness"]
    repeat = {**ranked.to_json(), "task": {**ranked.to_json()["task"], "kind": "repeat"}}
    assert "--" not in remedies(repeat)["ablations"]


def test_studies_are_shown_where_they_were_made(ranked, page):
    assert {"ablations", "robustness", "learning_curve"}.isdisjoint(page.ids)
    studied = dataclasses.replace(ranked, ablations=VARIANTS, robustness=VARIANTS[:1], learning_curve=CURVE)
    assert studied.to_json()["ablations"] == VARIANTS
    text = page_of(studied).text
    for part in ("Ablations", "Robustness", "Learning curve", "without <text>", "-0.2500", "25 %", "0.7000 to 0.8000"):
        assert part in text
    assert text.index("25 %") < text.index("100 %")
    assert {"ablations", "robustness", "learning_curve"} <= set(page_of(studied).ids)


def test_noise_says_how_much_the_lists_change_and_ablations_do_not():
    """Ablations would have nothing to say there: their rows compare no lists."""
    figures = {"ablations": VARIANTS, "robustness": NOISY}
    noisy, ablated = (study_sections.comparison(figures, name) for name in ("robustness", "ablations"))
    (table,) = noisy.tables
    cells = dict(zip(table.head, table.rows[0], strict=True))
    assert (cells["overlap@10"], cells["RBO"], cells["seconds"]) == ("0.688", "0.562", "12.0")
    assert "Rank-biased overlap" in " ".join(noisy.lead)
    (table,) = ablated.tables
    assert {"overlap@10", "RBO"}.isdisjoint(table.head)
    assert "overlap" not in " ".join(ablated.lead)


def test_an_undefined_figure_is_a_dash():
    assert [number(None), signed(None), percent(None), interval(None, 0.5), plain_value(None)] == [MISSING] * 4 + [
        "none"
    ]
    assert plain_value({"half_life": 2.0, "names": ["a", "b"], "on": True}) == "half_life 2, names a, b, on true"
    assert [plain_value(value) for value in ("", [], {}, 12345)] == [MISSING, MISSING, MISSING, "12,345"]


LABELS = ["", "_hidden", "$", "\U0001f600", "x" * 500, 'url(#a) id="b" <style>', ' id="', "font-family: x", "a\n\tb"]


@pytest.mark.parametrize("label", LABELS)
def test_plots_take_any_label(label):
    point = Point(label, 0.5, 0.25, 0.75, label)
    for plot in (
        whiskers("a", [point, Point("other", 0.5, series="other")], label, zero=True),
        bars("b", [label, "other"], [1.0, -1.0], label, [label, "other"]),
        curve("c", [(0.5, point), (1.0, Point("", 0.25))], label, label),
    ):
        assert Page(plot).tags[0] == "svg"
        assert plot.count("<svg") == plot.count("</svg>") == 1


def test_a_label_too_long_for_a_plot_is_cut():
    assert "x" * 33 + "…" in Page(bars("b", ["x" * 500], [1.0], "axis")).text
