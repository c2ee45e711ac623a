"""The stage's predictions, compared with death that is measured on the same activations."""

from pathlib import Path

import numpy as np
import pytest

from saelib.activations.rows import ArrayRows
from saelib.config.load import check_config
from saelib.files.sealed import read_json
from saelib.init_death.measure import measure
from saelib.preprocessing.fit import make_preprocessing
from saelib.stats import compute_stats, save_stats
from saelib.theory import closed_forms
from saelib.theory.stage import write_predictions


def test_death_from_a_mean_along_the_ones_is_predicted(tmp_path: Path) -> None:
    """LayerNorm removes such a mean, so the paper's gamma is 0.015, which predicts that nothing dies."""
    x = (np.random.default_rng(0).standard_normal((8192, 256)) + 1).astype(np.float32)
    stats = compute_stats(ArrayRows(x))
    source = {"family": "arrays", "files": {1: "unused.npy"}}
    raw = {
        "results": str(tmp_path),
        "models": {"m": {"domain": "none", "source": source, "layers": [1]}},
        "extraction": {"heldout_tokens": 8192},
        "init_death": {"d_sae": 2048, "k": 64},
    }
    config = check_config(raw, "test suite")
    save_stats(stats, config.stats_path("m", 1), "key")
    write_predictions(config, "key")
    (row,) = read_json(config.theory_path())["rows"]
    measured = measure(ArrayRows(x), {"raw": make_preprocessing("raw", stats.arrays)}, 2048, 64, [0]).preprocessings[
        "raw"
    ]
    assert stats.gamma < 0.02
    assert (row["gamma"], row["gamma_unit"]) == (stats.gamma, stats.gamma_unit)
    assert measured.dead_total.mean > 0.1
    assert row["dead_total"] == pytest.approx(measured.dead_total.mean, abs=0.04)
    assert row["dead_total"] == float(closed_forms.dead_total(stats.gamma_unit, 2048, 64, 8192))
    assert row["dead_total_paper"] == float(closed_forms.dead_total_paper(stats.gamma, 2048, 64, 8192)) < 1e-6
