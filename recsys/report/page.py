"""render_report(): an evaluation's figures -> one HTML page, with nothing in it that has to be fetched or run.

Titles, ids and names of columns come from outside: everything is escaped but the plots, which are made here, and the
page forbids scripts and requests altogether.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recsys.report import list_sections, parts, run_sections, study_sections
from recsys.report.parts import Figures, Section


def render_report(figures: Figures) -> str:
    """The page of what `Evaluation.to_json` gives, or of the JSON file of `recsys evaluate`. `ablations`, `robustness`
    and `learning_curve` are shown where they are there, and named where not; see docs/evaluation.md for their columns.
    """
    sections = [section for section in _sections(figures) if section is not None]
    page = _environment().get_template("page.html")
    return page.render(figures=figures, verdict=run_sections.verdict(figures), sections=sections, svg=Markup)


def _sections(figures: Figures) -> Iterator[Section | None]:
    yield run_sections.judged(figures)
    yield list_sections.systems(figures)
    yield list_sections.slices(figures)
    yield study_sections.comparison(figures, "ablations")
    yield study_sections.comparison(figures, "robustness")
    yield study_sections.learning_curve(figures)
    yield study_sections.missing(figures)
    yield list_sections.beyond_accuracy(figures)
    yield list_sections.contributions(figures)
    yield list_sections.calibration(figures)
    yield list_sections.examples(figures)
    yield run_sections.training(figures)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("recsys", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": parts.moment, "number": parts.number, "count": parts.count}
    return environment
