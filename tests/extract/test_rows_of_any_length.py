"""A suite on a file measures what is measured on the file itself, whatever the lengths of its rows."""

from pathlib import Path

import numpy as np
import pytest

import saelib.extract.stage
import saelib.init_death.stage
import saelib.stats.stage
import saelib.theory.stage
from saelib.activations.rows import ArrayRows
from saelib.config import Config
from saelib.config.load import check_config
from saelib.init_death.measure import measure
from saelib.init_death.result import InitDeath, load_result
from saelib.pipeline.plan import make_plan
from saelib.preprocessing.fit import make_preprocessing
from saelib.report import build
from saelib.report.results import read_results
from saelib.report.tables import layers_table
from saelib.stats import LayerStats, compute_stats, load_arrays, load_stats
from saelib.store import open_store, verify_store
from saelib.theory.closed_forms import dead_relu

TRAIN, HELDOUT, D = 6000, 2000, 32
PREPROCESSINGS = ["raw", "center_median", "layernorm", "ln_center", "zscore", "pca"]
STAGES = {
    "extract": saelib.extract.stage.run,
    "stats": saelib.stats.stage.run,
    "init_death": saelib.init_death.stage.run,
}


def normal(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((TRAIN + HELDOUT, D))


def scattered(share: float, seed: int = 1) -> np.ndarray:
    """Returns which rows are of the special kind."""
    return np.random.default_rng(seed).random(TRAIN + HELDOUT) < share


def one_direction(length: float) -> np.ndarray:
    direction = np.random.default_rng(2).standard_normal(D)
    return length * direction / np.linalg.norm(direction)


def padding() -> np.ndarray:
    """A third of the rows are zeros, beside a mean of five times their deviation."""
    return np.where(scattered(1 / 3)[:, None], 0, normal() + one_direction(5 * np.sqrt(D)))


def small_rows() -> np.ndarray:
    """A third of the rows are a ten-thousandth as large as the others."""
    return np.where(scattered(1 / 3)[:, None], 1e-4 * normal(3), normal() + one_direction(5 * np.sqrt(D)))


def tiny_rows() -> np.ndarray:
    """As small as float32 allows beside others that are not."""
    return np.where(scattered(1 / 3)[:, None], 1e-12 * normal(3), normal() + one_direction(5 * np.sqrt(D)))


def relu() -> np.ndarray:
    """The output of a ReLU: mostly zeros, also in whole rows, and rows of every size."""
    sizes = 10 ** np.random.default_rng(4).uniform(-4, 0, (TRAIN + HELDOUT, 1))
    return np.maximum(sizes * (normal() + one_direction(5) - 1), 0)


def log_normal() -> np.ndarray:
    """Rows whose sizes have a standard deviation of 2 in their logarithm, about one direction."""
    return np.exp(2 * normal(5)[:, :1]) * (normal() + one_direction(2 * np.sqrt(D)))


def massive_start() -> np.ndarray:
    """A third of the first batch is massive, and drags its mean away from all that follows."""
    x = 0.1 * normal() + one_direction(0.2 * np.sqrt(D))
    x[:4096:3] *= 1000
    return x


def zeros_first() -> np.ndarray:
    """The first batch is mostly padding, and one dimension has a mean of thousands of its own deviations."""
    x = normal()
    x[:, 3] += 5000
    x[:3000] = 0
    return x


def one_level() -> np.ndarray:
    """Each token has a mean of its own, along (1, ..., 1), a thousand times what LayerNorm sees."""
    return 100 + 30 * normal(6)[:, :1] + 0.1 * normal()


def all_tiny() -> np.ndarray:
    """All of it is smaller than float16's smallest values."""
    return 1e-8 * (normal() + one_direction(5 * np.sqrt(D)))


def layer_normed() -> np.ndarray:
    """Without the direction that LayerNorm takes away, as after a block that ends with one (BERT)."""
    x = normal() + one_direction(2 * np.sqrt(D))
    return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) + 0.5 * normal(7)[0]


def low_rank() -> np.ndarray:
    """Twelve dimensions are mixtures of the twenty others."""
    return normal()[:, :20] @ np.random.default_rng(8).standard_normal((20, D)) + one_direction(30)


def massive() -> np.ndarray:
    """One dimension is beyond float16 in a few rows."""
    x = normal()
    x[scattered(0.01), 5] = 2e5
    return x


KINDS = {
    kind.__name__: kind
    for kind in (
        padding, small_rows, tiny_rows, relu, log_normal, massive_start, zeros_first, one_level, all_tiny, massive,
        layer_normed, low_rank,
    )
}  # fmt: skip
FLOAT16 = {"padding", "relu", "massive_start", "zeros_first", "layer_normed", "low_rank"}
"""Kinds that float16 keeps; the others need float32."""


def suite(file: Path, results: Path) -> Config:
    source = {"family": "arrays", "files": {1: str(file)}}
    raw = {
        "results": str(results),
        "models": {"toy": {"domain": "made up", "source": source, "layers": "1"}},
        "extraction": {"tokens": TRAIN, "heldout_tokens": HELDOUT, "chunk_rows": 512, "window_rows": 1024},
        "init_death": {"d_sae": 512, "k": 16, "seeds": 2, "preprocessings": PREPROCESSINGS},
    }
    return check_config(raw, "suite")


def of_the_file(x: np.ndarray, config: Config) -> tuple[LayerStats, InitDeath]:
    stats = compute_stats(ArrayRows(x[:TRAIN]))
    fitted = {name: make_preprocessing(name, stats.arrays, tokens=TRAIN) for name in PREPROCESSINGS}
    options = config.init_death
    return stats, measure(ArrayRows(x[TRAIN:]), fitted, options.d_sae, options.k, range(options.seeds))


@pytest.mark.parametrize("kind", KINDS)
def test_tables_say_what_the_file_says(tmp_path: Path, kind: str) -> None:
    x = KINDS[kind]().astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    config = suite(tmp_path / "x.npy", tmp_path / "results")
    for job in make_plan(config).jobs.values():
        if job.stage in STAGES:
            STAGES[job.stage](config, job)

    store = config.store_path("toy", 1)
    assert verify_store(store) == []
    assert (open_store(store).metadata.dtypes["train"] == "float16") == (kind in FLOAT16)
    wanted, death = of_the_file(x, config)
    row = layers_table(config, read_results(config)).row(0, named=True)
    for name in ("gamma", "gamma_raw", "gamma_unit", "effective_rank", "norm_ratio"):
        assert row[name] == pytest.approx(getattr(wanted, name), rel=1e-3), name
    assert load_stats(config.stats_path("toy", 1)).warnings == wanted.warnings
    whitened = (make_preprocessing("pca", a).d_out for a in (load_arrays(config.stats_path("toy", 1)), wanted.arrays))
    assert next(whitened) == next(whitened)
    found = load_result(config.init_death_path("toy", 1))
    for name in PREPROCESSINGS:
        for rate in ("dead_relu", "dead_total"):
            of_store, of_file = (np.array(getattr(one.preprocessings[name], rate).per_seed) for one in (found, death))
            np.testing.assert_allclose(of_store, of_file, atol=3 / 512, err_msg=f"{name} {rate}")


def test_one_dimension_gives_what_can_be_had(tmp_path: Path) -> None:
    """LayerNorm leaves nothing of it; what does not ask for LayerNorm is measured, and the report is made."""
    x = (np.random.default_rng(0).standard_normal((TRAIN + HELDOUT, 1)) + 3).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    config = suite(tmp_path / "x.npy", tmp_path / "results")
    for job in make_plan(config).jobs.values():
        if job.stage in STAGES | {"theory": None}:
            (STAGES | {"theory": saelib.theory.stage.run})[job.stage](config, job)
    build.run(config, "key")
    row = layers_table(config, read_results(config)).row(0, named=True)
    train = x[:TRAIN].astype(np.float64)
    unit = np.sign(train)
    assert row["gamma_raw"] == pytest.approx(train.mean() / train.std(), rel=1e-6)
    assert row["gamma_unit"] == pytest.approx(unit.mean() / unit.std(), rel=1e-5)
    assert row["dead_relu"] == load_result(config.init_death_path("toy", 1)).preprocessings["raw"].dead_relu.mean
    undefined = ("gamma", "effective_rank", "effective_rank_fraction", "predicted_dead_total_paper")
    assert [row[name] for name in undefined] == [None] * 4
    assert row["predicted_dead_relu"] == pytest.approx(float(dead_relu(row["gamma_unit"], HELDOUT)))
    said = f"all {TRAIN} tokens are the same after LayerNorm, so gamma is not defined"
    assert load_stats(config.stats_path("toy", 1)).warnings == [said]
