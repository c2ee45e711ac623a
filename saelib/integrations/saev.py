"""saev: starts its SAEs from our center or whitening, and logs death by cause while they train."""

from typing import TYPE_CHECKING, Any, TypeVar

import torch

from saelib.integrations.death import DeathLog, Report, watch
from saelib.integrations.starting_point import assign, refuse_started, require, starting_point, write_start

if TYPE_CHECKING:
    from saelib.diagnosis.result import Diagnosis
    from saelib.preprocessing.transform import Preprocessing

T = TypeVar("T")


def start(sae: T, found: "Diagnosis | Preprocessing") -> T:
    """Starts an SAE of saev from the remedy that was found, right after `make_saes` in its training script.

    b_dec moves to the center. saev's `encode` does not subtract b_dec, so b_enc becomes -center W_enc, which
    centers the pre-activations just as well. (The release on PyPI, 0.1.0 of April 2025, has no `encode` and subtracts
    b_dec; its b_enc stays 0.) To whiten, with z = (x - center) M, W_enc becomes M W_enc and W_dec becomes W_dec M^-1,
    whose rows are scaled to norm 1, as saev keeps them. That costs something: at the start, each latent's share of the
    reconstruction is wrong by its norm over the mean norm.

    Args:
        sae: A `SparseAutoencoder`. `make_saes` has drawn its weights from data points by then, which is kept.
        found: The result of `saelib.diagnose` or `saelib.fit_preprocessing`. If nothing needs to be done, nothing is.

    Returns:
        `sae`, changed in place.

    Raises:
        UserError: If the SAE was trained before, or has another width.
    """
    model: Any = sae
    require(sae, "the SAE", "a saev SAE", "W_enc", "W_dec", "b_enc", "b_dec")
    point = starting_point(found, len(model.b_dec))
    if point is None:
        return sae
    refuse_started(model.b_dec)
    write_start(point, model.W_enc, model.W_dec, model.b_dec, unit_decoder=True)
    if hasattr(sae, "encode"):
        W_enc = model.W_enc.detach().cpu().double()
        assign(model.b_enc, model.b_enc.detach().cpu().double() - point.center @ W_enc)
    return sae


def log_death(sae: Any, window: int = 100_000, report: Report | None = None) -> DeathLog:
    """Logs the latents that are dead, by cause, after each `window` training tokens.

    A latent that saev selects with a negative pre-activation counts as alive, as it does in saev itself.

    Args:
        sae: A `SparseAutoencoder` with an `encode`, before or during its training.
        window: Tokens that are counted together.
        report: Called with each row (`wandb.log`, `print`); None: a line of the log.

    Returns:
        The log, whose `rows` grow as the SAE trains.
    """
    require(sae, "the SAE", "a saev SAE", "encode")
    death = DeathLog(window, report)
    watch(sae, "encode", _codes, death)
    return death


def _codes(encoded: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return encoded.h_x, encoded.f_x.abs()
