"""Write the whole report: tables, figures and page."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from saelib.config import Config
from saelib.errors import UserError
from saelib.files.publish import published_file, remove_drafts
from saelib.files.sealed import write_result
from saelib.files.tables import write_table
from saelib.pipeline.failures import Failures
from saelib.report.compare import compared_table
from saelib.report.evaluation import differences_table, evaluation_table
from saelib.report.lab import ExperimentTable, LabGap, read_lab
from saelib.report.provenance import provenance
from saelib.report.remedies import remedies_table
from saelib.report.results import NO_FAILURES, Gap, Results, read_results
from saelib.report.tables import landscape_table, layers_table, saes_table, spearman_rows
from saelib.report.training import training_table

log = logging.getLogger(__name__)


def run(config: Config, key: str, failures: Failures = NO_FAILURES) -> None:
    """Reads every result of the suite, and writes `tables/`, `figures/`, `report.html` and, last, `report.json`.

    Results that are missing or unusable stop nothing; the page names them, and so do the `gaps` in `report.json`.

    Args:
        config: the suite; its `results` folder is read and written.
        key: one hash over everything that the report depends on; it is kept in `report.json`.
        failures: reasons for missing results that jobs of this run left (`saelib.pipeline.failures`).
    """
    results, lab = read_results(config, failures), read_lab(config, failures)
    for gap in results.gaps:
        log.warning("%s: %s: %s", gap.stage, gap.place or "every layer", gap.reason)
    for gap in (gap for found in lab for gap in found.missing):
        log.warning("lab: %s, %s: %s", gap.experiment, gap.cell, gap.reason)
    tables = make_tables(config, results)
    of_lab, remedies = {found.table: found.rows for found in lab}, remedies_table(config)
    if not remedies.is_empty():
        of_lab["remedies"] = remedies
    for folder in ("tables", "figures"):
        (config.results / folder).mkdir(parents=True, exist_ok=True)
        remove_drafts(config.results / folder)
    gaps = [asdict(gap) | {"place": gap.place and gap.place.columns()} for gap in results.gaps]
    gaps += [_lab_gap(gap) for found in lab for gap in found.missing]
    written = (tables if config.models else {}) | of_lab
    _write_tables(written, config.results / "tables")
    figures = _write_figures(config, tables, lab, remedies, config.results / "figures")
    _write_page(config, results, tables, lab, remedies)
    report = {
        "tables": {name: table.height for name, table in written.items()},
        "figures": figures,
        "page": "report.html",
        "gaps": gaps,
    }
    write_result(config.results / "report.json", key, report)
    sizes = (tables["layers"].height, tables["saes"].height, len(lab), len(gaps))
    log.info("%d layers, %d SAEs, %d experiments, %d gaps", *sizes)


def _lab_gap(gap: LabGap) -> dict[str, Any]:
    return {"stage": "lab", "place": {"experiment": gap.experiment, "cell": gap.cell}, "reason": gap.reason}


def make_tables(config: Config, results: Results) -> dict[str, pl.DataFrame]:
    """Makes `layers`, `saes`, `spearman`, `training` and `landscape`, and those of an evaluation or another table."""
    layers = layers_table(config, results)
    tables = {
        "layers": layers,
        "saes": saes_table(config, results),
        "spearman": spearman_rows(layers),
        "training": training_table(config, results),
        "landscape": landscape_table(config, results),
    }
    if config.evaluation is not None:
        tables["evaluation"] = evaluation_table(config, results.evaluations)
        tables["evaluation_differences"] = differences_table(config, results.evaluations)
    if config.compare is None:
        return tables
    try:
        return tables | {"compared": compared_table(config.compare, layers)}
    except UserError as error:
        log.warning("compare: %s", error)
        results.gaps.append(Gap("compare", None, str(error)))
        return tables


def _write_tables(tables: dict[str, pl.DataFrame], folder: Path) -> None:
    for name, table in tables.items():
        write_table(table, folder / f"{name}.csv")
        if name != "spearman":
            write_table(table, folder / f"{name}.parquet")


def _write_figures(
    config: Config,
    tables: dict[str, pl.DataFrame],
    lab: Sequence[ExperimentTable],
    remedies: pl.DataFrame,
    folder: Path,
) -> list[str]:
    """Draws the figures and returns their names. One without anything to show is left out, and its old file removed."""
    from saelib.report.figures.death_by_layer import death_by_layer
    from saelib.report.figures.death_vs_gamma import death_vs_gamma
    from saelib.report.figures.evaluation import evaluation_figure
    from saelib.report.figures.lab import lab_figures
    from saelib.report.figures.landscapes import landscapes
    from saelib.report.figures.remedies import remedies_figure
    from saelib.report.figures.style import remove, save, styled
    from saelib.report.figures.trained_death import trained_death
    from saelib.report.figures.training import training_curves

    with styled():
        figures = {
            "death_vs_gamma": death_vs_gamma(config, tables["layers"], tables["spearman"]),
            "death_by_layer": death_by_layer(tables["layers"]),
            "trained_death": trained_death(config, tables["saes"]),
            "training": training_curves(config, tables["training"]),
            "landscapes": landscapes(config, tables["layers"]),
            "evaluation": evaluation_figure(tables["evaluation"]) if "evaluation" in tables else None,
            "remedies": remedies_figure(remedies),
            **{name: figure for found in lab for name, figure in lab_figures(found).items()},
        }
        for name, figure in figures.items():
            if figure is None:
                remove(folder, name)
            else:
                save(figure, folder, name)
    return [name for name, figure in figures.items() if figure is not None]


def _write_page(
    config: Config,
    results: Results,
    tables: dict[str, pl.DataFrame],
    lab: Sequence[ExperimentTable],
    remedies: pl.DataFrame,
) -> None:
    from saelib.report.page import render_page

    page = render_page(config, results, tables, provenance(results), lab, remedies)
    with published_file(config.results / "report.html") as draft:
        draft.write_text(page, encoding="utf-8")
