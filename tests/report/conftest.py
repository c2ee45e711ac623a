"""A suite of made-up results that looks like a real one: models of four domains, with gaps."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from saelib import report
from saelib.config import Config, VariantConfig
from saelib.config.load import check_config
from saelib.config.sites import number_of
from saelib.files.sealed import read_json, write_json
from saelib.init_death.landscape import Grid, Landscape
from saelib.init_death.result import Death, InitDeath, Rate, save_result
from saelib.report import Place
from saelib.report.page import render_page
from saelib.stats import LayerStats, save_stats
from saelib.stats.outliers import OutlierDimension
from saelib.theory import closed_forms
from saelib.theory.result import LayerPrediction, save_predictions
from saelib.train.history import HISTORY
from saelib.train.result import DivergedRun, MeasuredRun, SweepResult, run_entry
from tests.report.chromium import browser, open_page

__all__ = ["browser"]

# name: domain, layers, d_in, gamma at the first and last layer, effective rank, death that centering leaves
MODELS = {
    "smollm2-135m": ("language", 30, 576, 0.3, 1.6, 90.0, 0.0),
    "minilm-l6": ("language", 6, 384, 0.3, 0.6, 120.0, 0.0),
    "dinov2-small": ("vision", 12, 384, 0.45, 0.95, 60.0, 0.0),
    "antiberty": ("protein", 8, 512, 0.2, 1.0, 50.0, 0.0),
    "spliceai-10k": ("genomic", 16, 32, 0.6, 8.5, 6.0, 0.03),
    "hyenadna-tiny": ("genomic", 2, 128, 0.3, 1.2, 9.0, 0.0),
}

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="alert(3)\' {{ 7 * 7 }} &amp;'


def make_config(results: Path, only: tuple[str, ...] = tuple(MODELS), **changes: Any) -> Config:
    models = {
        name: {
            "domain": domain,
            "source": {"family": "arrays", "files": dict.fromkeys(range(1, layers + 1), "unused.npy")},
            "layers": f"1-{layers}",
            "representative_layer": layers,
            "license": "Apache-2.0",
            "notes": "Made-up activations.",
        }
        for name, (domain, layers, *_) in MODELS.items()
        if name in only
    }
    raw = {"results": str(results), "models": models} | changes
    return check_config(raw, "test suite")


def write_results(config: Config) -> None:
    """Writes every result that the config asks for, as the earlier stages write them."""
    rng = np.random.default_rng(0)
    predictions = []
    for name in config.models:
        _, layers, d_in, first, last, rank, after_centering = MODELS[name]
        for layer in config.models[name].layers:
            at = layer / layers
            gamma = float(first * (last / first) ** at * np.exp(rng.normal(0, 0.1)))
            save_stats(stats(rng, gamma, d_in, rank, layer), config.stats_path(name, layer), f"stats-{name}-{layer}")
            found = init_death(rng, gamma, after_centering * at)
            save_result(found, config.init_death_path(name, layer), f"death-{name}-{layer}")
            predictions.append(prediction(config, name, layer, gamma * 1.02))
        for variant in config.train.variants:
            place = Place(name, layers, variant)
            write_json(config.train_path(*place) / "sweep.json", sweep(rng, place, d_in, last))
            history().write_parquet(config.train_path(*place) / "history.parquet")
    save_predictions(predictions, config.theory_path(), "theory-key")


def stats(rng: np.random.Generator, gamma: float, d_in: int, rank: float, layer: int) -> LayerStats:
    rank = float(rank * np.exp(rng.normal(0, 0.2)))
    return LayerStats(
        tokens=20_480,
        d_in=d_in,
        gamma=gamma,
        gamma_raw=float(gamma / rng.uniform(1, 4)),
        gamma_unit=gamma * 1.02,
        sigma=float(np.sqrt(d_in)),
        norm_ratio=float(rng.uniform(1, 3)),
        norm_quantiles={"p50": 20.0, "max": 60.0},
        outlier_dimensions=[OutlierDimension(d_in // 2, gamma, 0.3, 0.8), OutlierDimension(3, -0.2, 1.5, 0.1)],
        massive_share=0.001,
        effective_rank=rank,
        effective_rank_fraction=rank / d_in,
        leading_eigenvalues=[1.0, 0.5],
        excess_kurtosis=float(rng.uniform(0, 2)),
        center_distances={"mean to center_median": 0.1},
        warnings=["fewer than 5 tokens for each dimension"] if layer == 3 else [],
        arrays=landscape(rng, gamma, d_in),
    )


def landscape(rng: np.random.Generator, gamma: float, d_in: int) -> dict[str, np.ndarray]:
    std = np.exp(rng.normal(0, 0.3, d_in)).astype(np.float32)
    mean = rng.normal(0, 0.3, d_in).astype(np.float32)
    mean[rng.integers(d_in, size=2)] = gamma * np.sqrt(d_in) * np.array([0.9, -0.4], np.float32)
    return {"ln_mean": mean, "ln_std": std}


def init_death(rng: np.random.Generator, gamma: float, after_centering: float) -> InitDeath:
    total = float(closed_forms.dead_total(gamma, 2048, 64, 8192)) * rng.uniform(0.6, 1)
    relu = float(closed_forms.dead_relu(gamma, 8192)) * rng.uniform(0.7, 1)
    preprocessings = {
        "raw": death(min(relu, total), total),
        "center_median": death(0, after_centering),
        "center_mean": death(0, min(1, total * rng.uniform(0, 2.5))),
        "ln_center": death(0, after_centering / 2),
        "zscore": death(0, total / 2),
        "pca": death(0, 0),
    }
    sizes = {"raw": total, "center_median": after_centering, "pca": 0.0}
    return InitDeath(8192, 16, 2048, 64, (0, 1, 2), (1, 8192), preprocessings, predicted(sizes))


def predicted(dead: dict[str, float]) -> Landscape:
    """Makes up death that is larger for more latents, and smaller for a larger k."""
    d_sae, k = (32, 2048), (16, 64)
    grids: dict[str, Grid] = {name: ((one / 2, None), (one, one / 4)) for name, one in dead.items()}
    errors: dict[str, Grid] = dict.fromkeys(dead, ((0.01, None), (0.01, 0.005)))
    return Landscape(d_sae, k, grids, errors)


def death(relu: float, total: float) -> Death:
    def over_seeds(mean: float) -> Rate:
        return Rate((mean * 0.98, mean, mean * 1.02))

    return Death(over_seeds(relu), over_seeds(total - relu), over_seeds(total), (0.0, relu), (0.0, total))


def prediction(config: Config, model: str, layer: int, gamma: float) -> LayerPrediction:
    d_sae, k, tokens = config.init_death.d_sae, config.init_death.k, config.extraction.heldout_tokens
    found = closed_forms.predict(gamma, d_sae, k, tokens)
    return LayerPrediction(model, layer, gamma, gamma, d_sae, k, tokens, **vars(found))


def sweep(rng: np.random.Generator, place: Place, d_in: int, gamma: float) -> dict[str, Any]:
    variant = place.variant
    spared = {"baseline": 1.0, "auxk": 0.3, "center_median": 0.02, "pca": 0.0}.get(variant, 0.5)
    relu = float(closed_forms.dead_relu(gamma, 8192)) * spared
    total = max(relu, float(closed_forms.dead_total(gamma, 1024, 32, 8192)) * spared * rng.uniform(0.5, 0.9))
    best, options = (
        measured_run(relu, total),
        VariantConfig.model_validate(
            {
                "preprocessing": variant if variant in ("center_median", "pca") else "raw",
                "dead_latents": "auxk" if variant == "auxk" else "none",
            }
        ),
    )
    result = SweepResult(
        key=f"train-key-{variant}",
        model=place.model,
        layer=number_of(place.layer),
        variant=variant,
        d_in=d_in,
        d_sae=1024,
        k=32,
        steps=300,
        options=options,
        preprocessing_reason=None,
        backend="torch",
        best_learning_rate=best.learning_rate,
        runs=(replace(best, learning_rate=1e-4, mse=90.0, dead_total=1.0), best, DivergedRun(1e-2)),
    )
    return vars(result) | {"options": options.model_dump(mode="json"), "runs": [run_entry(run) for run in result.runs]}


def history() -> pl.DataFrame:
    """Records of two learning rates, every 100 of 300 steps; latents die from step to step at the higher one."""
    records = [(rate, step) for rate in (1e-4, 1e-3) for step in range(0, 301, 100)]
    rows = [
        dict.fromkeys(HISTORY)
        | {"peak_learning_rate": rate, "step": step, "probe_dead_relu": rate * step, "probe_dead_topk_only": 0.1}
        | {"probe_dead_total": rate * step + 0.1, "token_fvu_median": 0.5}
        for rate, step in records
    ]
    return pl.DataFrame(rows, schema=HISTORY)


def measured_run(relu: float, total: float) -> MeasuredRun:
    return MeasuredRun(
        learning_rate=1e-3,
        choosing_token_fvu_median=0.17 * (1 + total),
        mse=40 * (1 + total),
        normalized_mse=0.2 * (1 + total),
        variance_explained=1 - 0.2 * (1 + total),
        token_fvu_median=0.18 * (1 + total),
        token_fvu_mean=0.19 * (1 + total),
        mse_trained=40 * (1 + total),
        normalized_mse_trained=0.2 * (1 + total),
        variance_explained_trained=1 - 0.2 * (1 + total),
        l0=31.5,
        mean_kth_activation=0.4,
        dead_relu=relu,
        dead_topk_only=total - relu,
        dead_total=total,
        bias_capture=0.3,
        bias_distance=None,
        feature_capture=0.2,
    )


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A complete suite of 74 layers with its report. Tests that change files copy it: see `suite`."""
    config = make_config(tmp_path_factory.mktemp("suite") / "results")
    write_results(config)
    report.run(config, "report-key")
    return config


@pytest.fixture
def page(browser: Any, complete: Config) -> Any:
    """A browser that shows the page of the complete suite."""
    open_page(browser, complete.results / "report.html")
    return browser


@pytest.fixture
def suite(tmp_path: Path) -> Config:
    """A suite of two models, without a report, in a folder of the test's own."""
    config = make_config(tmp_path / "results", only=("minilm-l6", "hyenadna-tiny"))
    write_results(config)
    return config


@pytest.fixture(scope="session")
def render() -> Callable[[Config], str]:
    """Renders the page of a suite, and nothing else."""

    def page(config: Config) -> str:
        results = report.read_results(config)
        return render_page(config, results, report.make_tables(config, results), {"report written": "today"})

    return page


@pytest.fixture
def evil() -> str:
    """Text that tries to become part of a page's code."""
    return EVIL


@pytest.fixture
def poisoned(suite: Config) -> Config:
    """A suite in which every text that somebody else could write is evil."""
    name = f"model{EVIL}".replace("/", "\\")  # names are folders too
    model = suite.models["hyenadna-tiny"].model_copy(update={"notes": EVIL, "license": EVIL, "domain": EVIL})
    for stage in ("stats", "init_death", "train"):
        (suite.results / stage / "hyenadna-tiny").rename(suite.results / stage / name)
    stats = suite.stats_path(name, 1)
    write_json(stats, read_json(stats) | {"warnings": [EVIL]})
    write_json(suite.stats_path(name, 2), {"key": EVIL, EVIL: EVIL})
    death = suite.init_death_path(name, 1)
    death.write_text(death.read_text().replace('"zscore"', json.dumps(EVIL)))
    variants = suite.train.variants | {EVIL: suite.train.variants["auxk"]}
    train = suite.train.model_copy(update={"variants": variants})
    return suite.model_copy(update={"models": {"minilm-l6": suite.models["minilm-l6"], name: model}, "train": train})
