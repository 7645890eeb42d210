"""Ablations: what the lists lose without a source, a group of features, the fine-tuning or all text.

Sources and groups of features are taken out of the examples that the ranker learned from and out of the candidates of
the evaluation's queries; only the ranker is fitted again, in the same way. Text and fine-tuning change the sources,
too, so these two train everything anew. The popular items that fill a short list up stay in all of them.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from features.errors import SettingsError
from features.runs import Pairs
from ranking.base import Ranker
from recsys.evaluation_result import Evaluation
from recsys.feature_groups import Ablation, ablated_examples, ablations, reduced, still_offered
from recsys.recommender import Recommender, RequestCandidates
from recsys.requests import Request
from recsys.retrieval.merge import Candidates
from recsys.scoring import CHUNK
from recsys.settings import Settings
from recsys.threads import limit_threads
from recsys.training import TrainingArtifacts, refit_ranker, sources_order, train
from recsys.variants import ItemLists, Row, item_lists, product_lists, variant_row

logger = logging.getLogger(__name__)
RESEEDED = Ablation("ranker of another seed", frozenset())
"""Nothing is taken away: the size of a difference that means nothing."""


@dataclass(frozen=True)
class _Variant:
    """The product after an ablation, and the seconds that it took to make."""

    ablation: Ablation
    recommender: Recommender
    seconds: float


def ablation_rows(trained: TrainingArtifacts, evaluation: Evaluation) -> list[Row]:
    """One row (see `variant_row`) for the product with a ranker of another seed, then for each source and each group of
    features that is taken away. `trained` made the model that `evaluation` judged. Beside the examples there is one
    reduced copy of them at a time, and the candidates of one chunk of queries.
    """
    requests = evaluation.task.requests
    full = Recommender(trained.model)
    names = full.candidates(requests[:1]).matrix.names
    planned = [RESEEDED, *ablations(trained.examples.everything.features.names if trained.examples else names)]
    if trained.examples is None:
        logger.info("no ranker was learned, so no group of features can be missed")
        planned = [ablation for ablation in planned if ablation.source is not None]
    variants = [_fitted(trained, ablation) for ablation in planned]
    with limit_threads(1):
        answered = _answers(full, variants, requests)
    return [variant_row(v.ablation.name, *answer, evaluation) for v, answer in zip(variants, answered, strict=True)]


def retrained_rows(evaluation: Evaluation) -> list[Row]:
    """One row for the product without fine-tuning and one without any text; none where no text is used anyway."""
    rows = []
    for name, settings in _without_text(evaluation):
        started = time.perf_counter()
        logger.info("ablation %s: training anew", name)
        try:
            model = train(evaluation.task.train, settings)
        except SettingsError as error:
            logger.info("ablation %s is left out: %s", name, error)
            continue
        lists = product_lists(model, evaluation.task.requests)
        rows.append(variant_row(name, lists, time.perf_counter() - started, evaluation))
    return rows


def _fitted(trained: TrainingArtifacts, ablation: Ablation) -> _Variant:
    started = time.perf_counter()
    logger.info("ablation %s: fitting the ranker", ablation.name)
    model = trained.model
    sources = tuple(source for source in model.sources if source.name != ablation.source)
    ranker = _ranker(trained, ablation, [source.name for source in sources])
    recommender = Recommender(dataclasses.replace(model, sources=sources, ranker=ranker))
    return _Variant(ablation, recommender, time.perf_counter() - started)


def _ranker(trained: TrainingArtifacts, ablation: Ablation, sources: Sequence[str]) -> Ranker:
    if trained.examples is None:
        return sources_order(sources, trained.model.report)
    if ablation is RESEEDED:
        return refit_ranker(trained, trained.examples, sources, seed=trained.model.settings.seed + 1)
    return refit_ranker(trained, ablated_examples(trained.examples, ablation), sources)


def _answers(
    full: Recommender, variants: Sequence[_Variant], requests: Sequence[Request]
) -> list[tuple[ItemLists, float]]:
    """Every variant's lists, from candidates and features that are found once, and its seconds in all."""
    lists: list[ItemLists] = [[] for _ in variants]
    seconds = [variant.seconds for variant in variants]
    for start in range(0, len(requests), CHUNK):
        asked = full.candidates(requests[start : start + CHUNK])
        for k, variant in enumerate(variants):
            started = time.perf_counter()
            lists[k] += item_lists(variant.recommender.rank(_left_of(asked, variant.ablation)))
            seconds[k] += time.perf_counter() - started
    return list(zip(lists, seconds, strict=True))


def _left_of(asked: RequestCandidates, ablation: Ablation) -> RequestCandidates:
    keep = still_offered(asked.matrix, ablation)
    pairs = Pairs(asked.found.pairs.query_rows[keep], asked.found.pairs.item_rows[keep])
    columns = {name: values[keep] for name, values in asked.found.columns.items() if name not in ablation.columns}
    matrix = reduced(asked.matrix, ablation, keep)
    return dataclasses.replace(asked, found=Candidates(pairs, columns), matrix=matrix)


def _without_text(evaluation: Evaluation) -> Iterator[tuple[str, Settings]]:
    settings = evaluation.model.settings
    if evaluation.model.encoder is None:
        logger.info("the product uses no text, so none is taken away")
        return
    if settings.finetune.enabled:
        finetune = settings.finetune.model_copy(update={"enabled": False})
        yield "without fine-tuning", settings.model_copy(update={"finetune": finetune})
    encoder = settings.encoder.model_copy(update={"model": "none"})
    yield "without text", settings.model_copy(update={"encoder": encoder})
