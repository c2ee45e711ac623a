"""Writes the benchmark's data as a `SyntheticModel` that SAELens 6 loads, to train and score its SAEs on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from saelib.errors import UserError
from saelib.synthetic.benchmark import BenchmarkSignal
from saelib.synthetic.data import SyntheticData
from saelib.synthetic.recipe import Recipe


def write_synthetic_model(data: SyntheticData, folder: Path) -> None:
    """Writes a folder for `sae_lens.synthetic.SyntheticModel.load_from_disk`.

    Features, offset, correlations, trees, frequencies and magnitudes are the same there as here; the samples are others
    of the same distribution. SAELens reads the frequencies' law and the magnitudes from the configuration and its seed.

    Args:
        data: From a `BenchmarkDataConfig`.
        folder: Created if absent; files of the same names are replaced.

    Raises:
        UserError: If the data are not the benchmark's, which are all that SAELens's format can express.
    """
    from safetensors.numpy import save_file

    signal = data.source
    if not isinstance(signal, BenchmarkSignal):
        raise UserError(
            "only the data of a BenchmarkDataConfig can be written for SAELens: its synthetic models have no fixed "
            "number of active features"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(signal.recipe, float(np.linalg.norm(data.offset)), signal.seed)
    (folder / "synthetic_model_config.json").write_text(json.dumps(config, indent=2))
    (folder / "hierarchy.json").write_text(
        json.dumps({"roots": [_node(signal.recipe, i) for i in signal.recipe.levels[0]]})
    )
    factor = signal.factor.astype(np.float64)
    tensors = {
        "feature_vectors": signal.features,
        "bias": data.offset,
        "firing_probabilities": signal.recipe.probabilities,
        "correlation_factor": factor,
        "correlation_diag": 1 - (factor**2).sum(axis=1),
    }
    save_file(
        {name: np.ascontiguousarray(one, np.float32) for name, one in tensors.items()},
        folder / "synthetic_model.safetensors",
    )


def _config(recipe: Recipe, bias: float, seed: int) -> dict[str, Any]:
    return {
        "num_features": recipe.n_features,
        "hidden_dim": recipe.d_in,
        "firing_probability": {
            "generator_name": "zipfian",
            "exponent": recipe.exponent,
            "max_prob": recipe.highest,
            "min_prob": recipe.lowest,
        },
        "hierarchy": {
            "total_root_nodes": recipe.roots,
            "branching_factor": recipe.children,
            "max_depth": recipe.depth,
            "mutually_exclusive_portion": 1.0,
            "mutually_exclusive_min_depth": 0,
            "mutually_exclusive_max_depth": None,
            "compensate_probabilities": True,
            "scale_children_by_parent": True,
        },
        "orthogonalization": {"num_steps": recipe.steps, "lr": recipe.rate},
        "correlation": {"rank": recipe.rank, "correlation_scale": recipe.correlation, "seed": None},
        "std_firing_magnitudes": {
            "generator_name": "folded_normal",
            "mean": recipe.deviation_mean,
            "std": recipe.deviation_spread,
        },
        "mean_firing_magnitudes": {
            "generator_name": "linear",
            "start": recipe.mean_first,
            "end": recipe.mean_last,
        },
        "bias": bias,
        "dtype": "float32",
        "seed": seed,
    }


def _node(recipe: Recipe, feature: int) -> dict[str, Any]:
    """Describes a feature and those below it."""
    first = int(recipe.first_child[feature])
    children = range(first, first + recipe.children) if first >= 0 else ()
    return {
        "feature_index": feature,
        "mutually_exclusive_children": bool(children),
        "scale_children_by_parent": bool(children),
        "feature_id": None,
        "children": [_node(recipe, child) for child in children],
    }
