"""configs/paper.yaml is the paper's suite: the models and layers of its released tables, one by one."""

from collections import defaultdict
from pathlib import Path

import polars as pl
import pytest

from saelib.config import load_config

PROJECT = Path(__file__).parents[2]
RELEASED = PROJECT.parent / "shared" / "reference"
NAMES = {
    "af3": "alphafold3",
    "dinov2": "dinov2-base",
    "dinov2_large": "dinov2-large",
    "dinov3": "dinov3-7b",
    "dinov3_small": "dinov3-base",
    "esm2_35m": "esm2-35m",
    "esm2_3B": "esm2-3b",
    "esm2_650m": "esm2-650m",
    "esm3": "esm3",
    "evo": "evo-1",
    "glm2": "glm2-650m",
    "gpt2": "gpt2",
    "modernbert": "modernbert-base",
    "modernbert_large": "modernbert-large",
    "progen_base": "progen2-base",
    "progen_large": "progen2-large",
    "pythia_410m": "pythia-410m",
    "pythia_70m": "pythia-70m",
    "stable-diffusion-3-5-large": "stable-diffusion-3.5-large",
}
TRAINED = {
    "GPT-2": "gpt2",
    "Pythia 410m": "pythia-410m",
    "ModernBERT-Large": "modernbert-large",
    "DINOv2-Large": "dinov2-large",
    "DINOv3-1B": "dinov3-base",
    "DINOv3-7B": "dinov3-7b",
    "Stable Diffusion 3.5 Large": "stable-diffusion-3.5-large",
    "ProGen2-large": "progen2-large",
    "gLM2": "glm2-650m",
    "ESM2-650M": "esm2-650m",
    "ESM2-3B": "esm2-3b",
    "ESM3": "esm3",
    "Evo1": "evo-1",
    "AlphaFold3": "alphafold3",
}
"""The released table calls DINOv3-B "DINOv3-1B"; its layer 6 is the middle of 12."""


@pytest.fixture(scope="module")
def suite():
    return load_config(PROJECT / "configs" / "paper.yaml")


def test_nineteen_models_and_454_layers(suite):
    assert len(suite.models) == 19
    assert sum(len(model.layers) for model in suite.models.values()) == 454
    assert (suite.init_death.d_sae, suite.init_death.k) == (suite.train.d_sae, suite.train.k) == (8192, 64)
    assert {"baseline", "auxk", "center_median", "pca"} <= set(suite.train.variants)


@pytest.mark.skipif(not RELEASED.exists(), reason="the paper's released tables are not here")
def test_layers_and_widths_are_those_of_the_released_table_model_by_model(suite):
    released = defaultdict(set)
    widths = {}
    for row in pl.read_csv(RELEASED / "init_stats.csv").iter_rows(named=True):
        released[NAMES[row["model"]]].add(row["layer"])
        widths[NAMES[row["model"]]] = row["hidden_dim"]
    assert {name: set(model.layers) for name, model in suite.models.items()} == released
    assert {name: model.width for name, model in suite.models.items()} == widths


@pytest.mark.skipif(not RELEASED.exists(), reason="the paper's released tables are not here")
def test_representative_layers_are_those_that_the_paper_trained_on(suite):
    trained = pl.read_csv(RELEASED / "trained_results.csv")
    released = {TRAINED[row["model"]]: row["layer"] for row in trained.iter_rows(named=True)}
    here = {name: suite.models[name].representative_layer for name in released}
    assert here == released
    assert all(model.representative_layer is not None for model in suite.models.values())
