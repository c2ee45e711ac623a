"""Measures, explains and prevents dead latents of sparse autoencoders (SAEs), before one is trained.

These are the functions to call in a notebook. Each is loaded when it is first used:

    >>> import saelib
    >>> stats = saelib.compute_stats(acts)                      # arrays, tensors, files, stores
    >>> round(stats.gamma_unit)
    4
    >>> death = saelib.measure_init_death(acts, d_sae=256, k=8)
    >>> death["raw"].dead_total.mean > 0.3 > death["center_median"].dead_total.mean
    True

`saelib.evaluation` has the measures of trained SAEs.

The pipeline over many models is run by `snakemake`, and single questions are answered by the command `saelib`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saelib import evaluation as evaluation
    from saelib.api.activations import Activations, open_activations
    from saelib.api.death import measure_init_death, predict_death
    from saelib.api.diagnose import diagnose
    from saelib.api.sae import LoadedSAE, evaluate_sae, load_sae
    from saelib.api.stats import compute_stats, fit_preprocessing
    from saelib.api.suite import Suite, open_suite
    from saelib.diagnosis.result import Diagnosis
    from saelib.errors import UserError
    from saelib.theory.recovery import recovery_steps

__version__ = "0.1.0"

__all__ = [
    "Activations",
    "Diagnosis",
    "LoadedSAE",
    "Suite",
    "UserError",
    "compute_stats",
    "diagnose",
    "evaluate_sae",
    "fit_preprocessing",
    "load_sae",
    "measure_init_death",
    "open_activations",
    "open_suite",
    "predict_death",
    "recovery_steps",
]

_HOMES = {
    "Activations": "saelib.api.activations",
    "Diagnosis": "saelib.diagnosis.result",
    "LoadedSAE": "saelib.api.sae",
    "Suite": "saelib.api.suite",
    "UserError": "saelib.errors",
    "compute_stats": "saelib.api.stats",
    "diagnose": "saelib.api.diagnose",
    "evaluate_sae": "saelib.api.sae",
    "fit_preprocessing": "saelib.api.stats",
    "load_sae": "saelib.api.sae",
    "measure_init_death": "saelib.api.death",
    "open_activations": "saelib.api.activations",
    "open_suite": "saelib.api.suite",
    "predict_death": "saelib.api.death",
    "recovery_steps": "saelib.theory.recovery",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: importing saelib costs nothing."""
    if name == "evaluation":
        return import_module("saelib.evaluation")
    if name not in _HOMES:
        raise AttributeError(f"module 'saelib' has no attribute '{name}'; it offers: {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, loaded or not."""
    return sorted({*globals(), *__all__})
