"""Every option with every architecture: refused by name, or trained, saved, loaded, measured and part of the key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.config.synthetic import SyntheticConfig
from saelib.evaluation.measure import measure
from saelib.sae.file import load_sae
from saelib.synthetic import make_data

CONFIG = TrainConfig(
    d_sae=64, k=4, batch_size=64, steps=12, learning_rates=(3e-3,), record_every=6, dead_after_examples=256
)
ARCHITECTURES = {
    **{kind: {"kind": kind} for kind in ("topk", "batch_topk", "matryoshka_batch_topk", "abs_topk", "relu")},
    "jumprelu": {"kind": "jumprelu", "bandwidth": 0.1, "initial_threshold": 0.1},
    "tanh": {"kind": "jumprelu", "bandwidth": 0.1, "initial_threshold": 0.1, "penalty": {"kind": "tanh", "scale": 2}},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "auxk": {"dead_latents": "auxk"},
    "ghost_grads": {"dead_latents": "ghost_grads"},
    "resample": {"dead_latents": {"kind": "resample", "every": 5, "until": 11}},
    "pre_act": {"dead_latents": "pre_act"},
    "sparse": {"optimizer": {"kind": "adam", "sparse": True}},
    "firing_rate": {"init": {"firing_rate": 0.1}},
    "calibrate": {"init": {"calibrate": True}},
    "datapoint": {"init": {"rows": "datapoint"}},
    "whitened": {"init": {"rows": "whitened"}, "preprocessing": "center_median"},
    "aligned": {"aligned": True, "init": {"tied": False}},
    "bypass": {"bypass": {"rank": 3}},
    "k_annealing": {"k_annealing": {"start": 9}},
    "all": {"aligned": True, "bypass": {"rank": 3}, "init": {"rows": "datapoint"}, "dead_latents": "auxk", "clip": 1.0},
}
REFUSED = {
    ("abs_topk", "ghost_grads"): "ghost_grads",
    ("abs_topk", "pre_act"): "pre_act",
    ("abs_topk", "firing_rate"): "init.firing_rate",
    ("jumprelu", "calibrate"): "init.calibrate",
    ("tanh", "calibrate"): "init.calibrate",
    **{(one, "k_annealing"): "k_annealing" for one in ("relu", "jumprelu", "tanh")},
}


def rows(seed: int, gamma: float = 4.0) -> np.ndarray:
    data = make_data(SyntheticConfig(d_in=16, n_features=32, active=3, gamma=gamma), seed=7)
    return data.sample(1_000, np.random.default_rng(seed))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_option_is_refused_by_name_or_works(train_on: Callable[..., Path], architecture: str, option: str):
    options = {"architecture": ARCHITECTURES[architecture], **OPTIONS[option]}
    if (architecture, option) in REFUSED:
        with pytest.raises(ValidationError, match=REFUSED[architecture, option]):
            VariantConfig.model_validate(options)
        return
    variant = VariantConfig.model_validate(options)
    out = train_on(rows(0), rows(1), CONFIG, variant)
    saved = load_sae(out / "weights.safetensors")
    expected = variant.model_copy(update={"learning_rates": (3e-3,)})
    assert saved.about["options"] == expected.model_dump(mode="json", exclude={"seed", "d_sae"})  # settings have them
    found = measure(saved, ArrayRows(rows(1), block_rows=512))
    assert found.finite
    errors = pl.read_parquet(out / "history.parquet")["mse"].to_list()
    assert option == "resample" or errors[0] > errors[1] > errors[2]  # latents that just restarted have not learned
    assert (saved.sae.bypass_in is not None) == (variant.bypass is not None)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_part_of_the_key(option: str):
    assert CONFIG.deciding(VariantConfig.model_validate(OPTIONS[option])) != CONFIG.deciding(VariantConfig())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"init": {"rows": {"kind": "whitened", "alpha": 0.5}}}, {"init": {"rows": {"kind": "whitened", "alpha": 1}}}),
        ({"bypass": {"rank": 3}}, {"bypass": {"rank": 4}}),
        ({"k_annealing": {"until": 0.5}}, {"k_annealing": {"until": 0.6}}),
        ({"architecture": "jumprelu"}, {"architecture": {"kind": "jumprelu", "penalty": "tanh"}}),
    ],
)
def test_so_is_each_of_its_settings(one: dict, other: dict):
    assert CONFIG.deciding(VariantConfig.model_validate(one)) != CONFIG.deciding(VariantConfig.model_validate(other))
