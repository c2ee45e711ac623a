"""Measures and publishes everything about a layer's SAEs after the pass."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.config import Config
from saelib.config.evaluation import ClassLabels, EvaluationConfig, MaskLabels
from saelib.config.sites import number_of, site_of
from saelib.evaluation.class_labels import label_images
from saelib.evaluation.compared import comparisons_of, find_twins, pairs_of
from saelib.evaluation.example_labels import label_tokens, split_tokens
from saelib.evaluation.held_out import HeldOut, SeenTables
from saelib.evaluation.judged import Judged, PassResult, kinds_of
from saelib.evaluation.layer_pass import LayerPass
from saelib.evaluation.layer_result import (
    SCHEMA,
    CELossFigures,
    Histogram,
    LayerEvaluation,
    SAEEvaluation,
    as_json,
)
from saelib.evaluation.masks import label_patches
from saelib.evaluation.measures import (
    LabeledTokens,
    core_figures,
    dense_figures,
    latent_states,
    monosemanticity_figures,
    number,
    probe,
    probing_figures,
    score_concepts,
)
from saelib.evaluation.seen import read_seen, write_latents, write_seen
from saelib.files.sealed import write_result

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Context:
    """Everything that the layers of a model share."""

    config: Config
    settings: EvaluationConfig
    tables: SeenTables
    examples: "pl.DataFrame"
    tokens: "pl.DataFrame"
    labeled: LabeledTokens | None
    embeddings: NDArray[np.floating] | None
    """[examples, e]"""
    notes: list[str]


def open_context(config: Config, held_out: HeldOut, tables: SeenTables) -> Context:
    """Reads the labels and computes the embeddings of the examples that were seen.

    Raises:
        UserError: If the labels do not fit the examples.
    """
    settings = config.evaluation
    assert settings is not None
    examples, tokens = tables.frames()
    notes = list(tables.notes)
    given = settings.labels.get(held_out.model.dataset or "") or settings.labels.get(held_out.name)
    labeled = None
    if given is not None:
        if isinstance(given, MaskLabels):
            found = label_patches(given, held_out.dataset, config.seed, examples, tokens)
        elif isinstance(given, ClassLabels):
            dataset = config.datasets[held_out.model.dataset or ""]
            found = label_images(given, dataset, tables.groups, tokens, held_out.name)
        else:
            found = label_tokens(given, examples, tokens, held_out.name)
        labels = found.distinct()
        halves = split_tokens(tables.groups, tables.counts, held_out.kind)
        labeled = LabeledTokens.of(labels, halves, settings.min_domains)
        if not labeled.test.concepts:
            notes.append(
                f"none of {len(labels.concepts)} concepts occurs {settings.min_domains} times in both halves of the "
                f"examples (evaluation.min_domains), so latents were not scored as detectors of concepts"
            )
            labeled = None
    asked = settings.embeddings.get(held_out.name)
    embeddings = None if asked is None else embed(config, asked.model, asked.layer, examples["id"].to_list())
    return Context(config, settings, tables, examples, tokens, labeled, embeddings, notes)


def embed(config: Config, model: str, layer: int, ids: list[str]) -> NDArray[np.floating]:
    """Runs another model over the same examples: [examples, e], the mean of each one's tokens; zeros if it has none."""
    wanted = {name: row for row, name in enumerate(ids)}
    other = HeldOut(config, model)
    found: NDArray[np.floating] | None = None
    seen = 0
    for batch in other.batches([layer], 2**62):
        bounds = np.cumsum([0, *batch.counts])
        acts = batch.layers[layer]
        found = np.zeros((len(ids), acts.shape[1])) if found is None else found
        for example, start, stop in zip(batch.examples, bounds[:-1], bounds[1:], strict=True):
            if example.id in wanted and stop > start:
                found[wanted[example.id]] = acts[start:stop].mean(axis=0)
                seen += 1
        if seen >= len(ids):
            break
    return np.zeros((len(ids), 1)) if found is None else found


@dataclass
class _Measured:
    """Everything about one SAE before it is written."""

    judged: Judged
    found: PassResult
    figures: dict[str, Any] = field(default_factory=dict)
    latents: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    """Measure -> scores of items, for paired comparisons."""


def finish_layer(context: Context, layer: LayerPass, key: str, losses: Mapping[str, CELossFigures]) -> None:
    """Measures every SAE of a layer and writes all files of its folder; `evaluation.json` comes last.

    `losses` holds the loss with each SAE's reconstructions, where it was measured.
    """
    import polars as pl

    massive = layer.massive
    write_seen(layer.folder, context.examples, context.tokens.with_columns(massive=pl.Series(massive)))
    measured = [_measure(context, layer, _Measured(one.judged, one.finish())) for one in layer.passes]
    alive = {one.judged.name: one.found.core.all.firing_rates > 0 for one in measured}
    trained = [one.judged for one in measured if one.judged.trained]
    where = {"model": layer.model, "layer": number_of(layer.layer), "site": site_of(layer.layer)}
    for one in measured:
        _add_twins(one, trained, alive)
        one.figures["ce_loss"] = losses.get(one.judged.name)
        write_latents(layer.folder, one.judged.name, pl.DataFrame(one.latents))
        result = SAEEvaluation(
            schema=SCHEMA, **where, **one.figures, examples=context.examples.height, massive_norm=layer.massive_norm
        )
        write_result(layer.folder / one.judged.name / "evaluation.json", key, as_json(result))
    names = {name: {one.judged.name: one.scores[name] for one in measured if name in one.scores} for name in SCORES}
    kinds = kinds_of(context.config)
    references = list(dict.fromkeys(kinds[name] for name in context.settings.references or list(kinds)[:1]))
    notes = [*context.notes]
    if layer.eigenvectors is None and "pca" in context.settings.baselines:
        notes.append("there is no baseline of principal components, because no stage of the suite whitens")
    summary = LayerEvaluation(
        schema=SCHEMA,
        key=key,
        **where,
        saes=tuple(one.judged.name for one in measured),
        pairs=tuple(pairs_of(trained, alive)),
        comparisons=tuple(comparisons_of(names, [one.judged for one in measured], references)),
        notes=tuple(notes),
    )
    write_result(layer.folder / "evaluation.json", key, as_json(summary))


SCORES = ("example_fvu", "concept_f1", "probe_auc", "monosemanticity")
"""Measures that are compared, over the same items for every SAE; monosemanticity is one score of an SAE."""


def _measure(context: Context, layer: LayerPass, one: _Measured) -> _Measured:
    """Measures what concerns one SAE alone. Its codes are in memory until it is done."""
    judged, (core, death, errors) = one.judged, one.found
    log.info("%s layer %s: measuring %s", layer.model, layer.layer, judged.name)
    rates = core.all.firing_rates
    distances = layer.distances
    away = distances > 0
    own = ("sae", "kind", "seed", "trained", "d_sae", "d_in", "k")
    values = (judged.name, judged.kind, judged.seed, judged.trained, *judged.directions.shape, judged.k)
    outliers = [dimension.index for dimension in layer.stats.outlier_dimensions]
    histogram = core.all.histogram()
    one.figures = dict(zip(own, values, strict=True)) | {
        "tokens": core.all.tokens,
        "all": core_figures(core.all),
        "typical": core_figures(core.typical),
        "token_fvu_median": float(np.median(errors[away] / distances[away])) if away.any() else 0.0,
        **vars(death),
        "histogram": Histogram(tuple(histogram.edges.tolist()), tuple(histogram.counts.tolist()), histogram.dead),
        "dense": dense_figures(rates, judged.directions, layer.eigenvectors, outliers),
    }
    one.scores["example_fvu"] = _example_fvu(context, layer, errors)
    codes = read_seen(layer.folder).codes(judged.name)
    one.latents = {
        "latent": np.arange(len(rates)),
        "density": rates,
        "max_activation": codes.max(axis=0).toarray().ravel(),
        "state": latent_states(rates),
        "concept": None,
        "concept_f1": None,
    }
    if context.labeled is not None or context.embeddings is not None:
        _add_labeled(context, layer, one, codes.tocsr())
    return one


def _add_labeled(context: Context, layer: LayerPass, one: _Measured, codes: Any) -> None:
    """Adds what needs labels or embeddings; `codes` is a `csr_array` [tokens, d_sae]."""
    folder = layer.folder / one.judged.name
    if context.labeled is not None:
        concepts = score_concepts(codes, context.labeled)
        one.figures["concepts"] = concepts.figures
        one.latents |= {"concept": concepts.concept, "concept_f1": concepts.f1}
        one.scores["concept_f1"] = concepts.scores.f1_per_domain
        concepts.scores.table().write_parquet(folder / "concepts.parquet")
        if context.settings.probing is not None:
            probes = probe(codes, context.labeled, context.settings.probing, context.config.seed)
            probes.write_parquet(folder / "probing.parquet")
            one.figures["probing"] = probing_figures(probes)
            if not probes.is_empty():
                one.scores["probe_auc"] = probes.filter(k=probes["k"].min())["auc"].to_numpy()
    if context.embeddings is not None:
        counts = np.array(context.tables.counts)
        figures, one.latents["monosemanticity"] = monosemanticity_figures(codes, counts, context.embeddings)
        one.figures["monosemanticity"] = figures
        if figures is not None:
            one.scores["monosemanticity"] = np.array([figures.mean])


def _add_twins(one: _Measured, trained: list[Judged], alive: dict[str, NDArray[np.bool_]]) -> None:
    others = [other for other in trained if other.name != one.judged.name]
    twins = find_twins(one.judged, others, alive)
    one.latents |= {"twin_sae": twins.sae, "twin": twins.latent, "twin_cosine": twins.cosine}
    living = zip(twins.cosine, alive[one.judged.name], strict=True)
    cosines = [cosine for cosine, is_alive in living if is_alive and cosine is not None]
    one.figures["twin_cosine_mean"] = number(float(np.mean(cosines))) if cosines else None


def _example_fvu(context: Context, layer: LayerPass, errors: NDArray[np.floating]) -> NDArray[np.float64]:
    """The unexplained fraction of each example's typical tokens, [examples]; NaN for examples without any."""
    counts = context.tables.counts
    example = np.repeat(np.arange(len(counts)), counts)
    typical = ~layer.massive
    sums = [
        np.bincount(example[typical], values[typical], minlength=len(counts)) for values in (errors, layer.distances)
    ]
    return np.divide(*sums, out=np.full(len(counts), np.nan), where=sums[1] > 0)
