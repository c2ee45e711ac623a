"""Predictions of the law of recovery (`saelib recovery`) next to the steps that the lab measured."""

from collections.abc import Mapping

from saelib.config.lab import Cell, RecoveryExperiment
from saelib.config.synthetic import SyntheticConfig
from saelib.config.training import VariantConfig
from saelib.theory.recovery import SHARES, recovery_steps


def predicted_steps(experiment: RecoveryExperiment, cell: Cell, row: Mapping[str, float | None]) -> dict[str, float]:
    """Returns the columns `predicted_steps_*` of a row of the table; none for a training that the law is not about.

    They are no part of the cell, so new constants of the law do not make a training stale.
    """
    variant, rate = experiment.variants[cell.settings["variant"]], cell.settings["learning_rate"]
    gamma, mean_norm, least = (row[name] for name in ("gamma_seen", "mean_norm", "least_steps"))
    if not (gamma and mean_norm and least) or not _is_plain(variant) or least * rate < 0.9 * mean_norm:
        return {}
    assert isinstance(cell.data, SyntheticConfig), "the experiments of this kind take no other data"
    found = recovery_steps(
        gamma,
        mean_norm,
        rate,
        batch_size=cell.settings["batch_size"],
        beta2=getattr(variant.optimizer, "beta2", 0.0),
        d_in=cell.data.d_in,
        d_sae=cell.sae.d_sae,
        k=cell.sae.k,
    )
    return {f"predicted_steps_{event}": getattr(found, event) for event in SHARES}


def _is_plain(variant: VariantConfig) -> bool:
    """Checks whether a variant is TopK under Adam, and changes nothing but `optimizer.beta2`."""
    plain = VariantConfig()
    beta2 = getattr(variant.optimizer, "beta2", None)
    return beta2 is not None and variant == plain.model_copy(
        update={"optimizer": plain.optimizer.model_copy(update={"beta2": beta2})}
    )
