"""The page: one HTML file that holds its charts, scripts and rows, and opens from disk without a network.

Text from the config and from result files was written by somebody else. Jinja escapes it, rows are embedded as JSON
that no browser runs, and the page's own policy allows its two scripts by their hashes, and no network.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import altair as alt
import jinja2
import polars as pl
import vl_convert

from saelib.config import Config
from saelib.preprocessing.recommend import ACCEPTED_AFTER, ORDER, TOLERATED, percent
from saelib.report.charts import make_charts
from saelib.report.columns import COMPARED_COLUMNS, LAYER_COLUMNS, SAE_COLUMNS, cost_columns, remedy_columns, telling
from saelib.report.compare import comparison
from saelib.report.evaluation import VERDICT_COLUMNS, difference_columns, evaluation_columns, verdicts
from saelib.report.finding import agreements, costs, count_advice, gamma_at, still_dead
from saelib.report.lab import ExperimentTable
from saelib.report.lab_charts import lab_sections
from saelib.report.palette import ADVICE
from saelib.report.remarks import grouped, remarks_of
from saelib.report.results import Results, place_of, wanted_layers, wanted_saes
from saelib.report.tables import PLACE
from saelib.report.training import NOT_DRAWN, PROBED, SHOWN, thinned

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("rows.js", "filter.js", "tables.js", "downloads.js", "charts.js", "cards.js", "start.js")
"""The page's own scripts, in the order in which they run; together they are one."""
EVALUATED = ("evaluation", "evaluation_differences")
"""Tables of an evaluation, which a suite need not have."""
PLACES_OF_A_MACHINE = {"results", "stores", "dask"}
"""Settings that the page leaves out, because it may travel to other machines."""


def render_page(
    config: Config,
    results: Results,
    tables: Mapping[str, pl.DataFrame],
    provenance: Mapping[str, str],
    lab: Sequence[ExperimentTable] = (),
    remedies: pl.DataFrame | None = None,
) -> str:
    """Renders the whole page as HTML.

    Args:
        config: the suite.
        results: what could be read of it.
        tables: the tables by name, as `make_tables` returns them.
        provenance: the origin of the report, in words.
        lab: the experiments of the lab.
        remedies: the table that compares remedies, if there is one.
    """
    layers, saes = tables["layers"], tables["saes"]
    experiments, lab_charts, lab_rows = lab_sections(lab)
    charts = make_charts(config, tables) if config.models else {}
    lab_gaps = [(f"lab: {gap.reason}", [f"{gap.experiment}: {gap.cell}"]) for found in lab for gap in found.missing]
    scripts = [_bundle(), "\n".join((ASSETS / name).read_text() for name in SCRIPTS)]
    return (
        _environment()
        .get_template("page.html")
        .render(
            config=config,
            settings=config.model_dump_json(indent=1, exclude=PLACES_OF_A_MACHINE, exclude_defaults=True),
            provenance=provenance,
            style=(ASSETS / "page.css").read_text(),
            scripts=scripts,
            policy=_policy(scripts),
            charts={name: asdict(chart) for name, chart in (charts | lab_charts).items()},
            rows=_rows(config, results, tables) | lab_rows,
            experiments=experiments,
            **_remedies(config, remedies),
            layer_columns=telling(LAYER_COLUMNS, layers),
            sae_columns=telling(SAE_COLUMNS, saes),
            **_evaluation(tables),
            evaluation_notes=grouped([(n, p) for p, (found, _) in results.evaluations.items() for n in found.notes]),
            cost_columns=telling(cost_columns(), layers),
            costs=costs(results, layers),
            saes=_with_files(config, saes),
            advice=ADVICE,
            accepted=ACCEPTED_AFTER,
            tolerated=TOLERATED,
            probed=min(PROBED, config.extraction.heldout_tokens),
            shown=SHOWN,
            table_names=[*(tables if config.models else ()), *(found.table for found in lab)]
            + (["remedies"] if remedies is not None and remedies.height else []),
            **_findings(config, tables),
            gaps=[*grouped([(f"{gap.stage}: {gap.reason}", gap.place) for gap in results.gaps]), *lab_gaps],
            remarks=grouped(remarks_of(results)),
        )
    )


def _findings(config: Config, tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Returns the values of the page's text on what was found, and of the comparison with another table."""
    layers = tables["layers"]
    return {
        "domains": layers["domain"].unique(maintain_order=True).to_list(),
        "trained_layers": tables["training"].select(*PLACE, "domain").unique(maintain_order=True).to_dicts(),
        "wanted": {"layers": len(wanted_layers(config)), "saes": len(wanted_saes(config))},
        "counts": count_advice(layers),
        "still_dead": still_dead(layers),
        "thresholds": gamma_at(config, (0.1, 0.5, 0.9)),
        "comparison": comparison(config.compare, tables.get("compared")),
        "compared_columns": COMPARED_COLUMNS,
        "agreements": agreements(layers, tables["spearman"]) if config.models else [],
    }


def _remedies(config: Config, remedies: pl.DataFrame | None) -> dict[str, Any]:
    """Returns the values of the section that compares remedies."""
    return {
        "remedies": [] if remedies is None else remedies.to_dicts(),
        "remedies_picture": _picture(config.results / "figures" / "remedies.svg"),
        "remedy_columns": [] if remedies is None else remedy_columns(remedies.columns),
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["part"] = lambda text: quote(str(text), safe="")  # of an address
    environment.filters["percent"] = percent
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # and columns keep their order
    return environment


def _rows(config: Config, results: Results, tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Everything that the scripts show: rows of the tables, what is known of each model, and links to files."""
    models = [
        {
            "model": name,
            "domain": model.domain,
            "data": model.dataset or "own activations",
            "license": model.license or "not stated",
            "notes": model.notes,
        }
        for name, model in config.models.items()
    ]
    return {
        "layers": tables["layers"].drop("key").to_dicts(),
        "saes": tables["saes"].drop("key").to_dicts(),
        "compared": tables["compared"].to_dicts() if "compared" in tables else [],
        **{name: tables[name].drop("key", strict=False).to_dicts() for name in EVALUATED if name in tables},
        "training": thinned(tables["training"]).drop(NOT_DRAWN).to_dicts(),
        "models": models,
        "outliers": [
            place.columns() | {"dimensions": [asdict(one) for one in found.outlier_dimensions]}
            for place, found in results.stats.items()
        ],
        "landscape": _landscapes(results),
        "files": _layer_files(config, results),
        "advice": ADVICE,
    }


def _evaluation(tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """The columns of the evaluation's tables, if there are any."""
    if "evaluation" not in tables:
        return {}
    return {
        "evaluation_columns": evaluation_columns(tables["evaluation"]),
        "difference_columns": difference_columns(tables["evaluation_differences"]),
        "verdict_columns": VERDICT_COLUMNS,
        "verdicts": verdicts(tables["evaluation_differences"], tables["layers"]),
    }


def _landscapes(results: Results) -> list[dict[str, Any]]:
    """Predicted death of each layer over d_sae and k, to a hundredth of a percent."""
    return [
        place.columns()
        | {"d_sae": found.landscape.d_sae, "k": found.landscape.k}
        | {"dead": {name: [[_rounded(dead) for dead in row] for row in grid] for name, grid in shown.items()}}
        for place, found in results.init_death.items()
        if found.landscape
        and (shown := {name: grid for name, grid in found.landscape.dead_total.items() if name in ORDER})
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _layer_files(config: Config, results: Results) -> list[dict[str, Any]]:
    stages = {"statistics": (results.stats, config.stats_path), "death": (results.init_death, config.init_death_path)}
    return [
        place.columns() | {"name": name, "href": _link(config, path(place.model, place.layer))}
        for name, (found, path) in stages.items()
        for place in found
    ]


def _with_files(config: Config, saes: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of `saes`, each with links to the files of its sweep and, if there is one, the page of its latents."""
    rows = []
    for row in saes.to_dicts():
        place = place_of(row)
        trained, latents = config.train_path(*place), config.features_path(*place) / "index.html"
        files = {"sweep": trained / "sweep.json", "weights": trained / "weights.safetensors"}
        files |= {"latents": latents} if latents.is_file() else {}
        rows.append(row | {"files": {name: _link(config, file) for name, file in files.items()}})
    return rows


def _link(config: Config, path: Path) -> str:
    """The address of a result as seen from the page; it holds nothing that HTML or a browser could take for more."""
    return quote(path.relative_to(config.results).as_posix())


@cache
def _bundle() -> str:
    """Bundles Vega, Vega-Lite (in the version that altair writes for) and vega-embed into one script."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)


def _policy(scripts: list[str]) -> str:
    """Writes the content security policy: these scripts, styles inside the page, and nothing from elsewhere."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def _picture(file: Path) -> str | None:
    """Returns the address of an SVG picture that holds the picture itself; None if there is no such file."""
    return f"data:image/svg+xml;base64,{base64.b64encode(file.read_bytes()).decode()}" if file.exists() else None
