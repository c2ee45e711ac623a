"""SAELens: starts its training SAEs from our center or whitening, and logs death by cause while they train."""

from typing import TYPE_CHECKING, Any, TypeVar

import torch

from saelib.errors import UserError
from saelib.integrations.death import DeathLog, Report
from saelib.integrations.starting_point import refuse_started, require, starting_point, write_start

if TYPE_CHECKING:
    from saelib.diagnosis.result import Diagnosis
    from saelib.preprocessing.transform import Preprocessing

T = TypeVar("T")


def start(sae: T, found: "Diagnosis | Preprocessing") -> T:
    """Starts an SAE of SAELens from the remedy that was found, before its first step.

    To center, b_dec moves to the geometric median. To whiten, with z = (x - center) M, W_enc becomes M W_enc, W_dec
    becomes W_dec M^-1 and b_dec the center, so the SAE starts as it would on whitened activations while it reads the
    model's own. `rescale_acts_by_decoder_norm` is then folded into the weights and turned off, as SAELens does when it
    folds a whitening: unwhitening changes the norms, which would change what TopK selects. Training can undo a whitened
    start (docs/i-train-with.md); `normalize_activations="covariance_whitening"` trains in whitened space instead.

    Args:
        sae: A `TrainingSAE` with `apply_b_dec_to_input=True` and `normalize_activations="none"`.
        found: The result of `saelib.diagnose` or `saelib.fit_preprocessing`. If nothing needs to be done, nothing is.

    Returns:
        `sae`, changed in place.

    Raises:
        UserError: If the SAE does not subtract b_dec from its input, normalizes it, was trained before, or is a
            transcoder or has another width.
    """
    model: Any = sae
    require(sae, "the SAE", "a SAELens SAE", "W_enc", "W_dec", "b_dec", "cfg")
    point = starting_point(found, model.W_enc.shape[0])
    if point is None:
        return sae
    _check(model)
    if point.whiten is not None and getattr(model.cfg, "rescale_acts_by_decoder_norm", False):
        model.fold_W_dec_norm()
        model.cfg.rescale_acts_by_decoder_norm = False
    write_start(point, model.W_enc, model.W_dec, model.b_dec, unit_decoder=False)
    return sae


def log_death(sae: Any, window: int = 100_000, report: Report | None = None) -> DeathLog:
    """Logs the latents that are dead, by cause, after each `window` training tokens.

    Args:
        sae: A `TrainingSAE`, before or during its training.
        window: Tokens that are counted together.
        report: Called with each row (`wandb.log`, `print`); None: a line of the log.

    Returns:
        The log, whose `rows` grow as the SAE trains.
    """
    require(sae, "the SAE", "a SAELens SAE", "hook_sae_acts_pre", "hook_sae_acts_post")
    death, latest = DeathLog(window, report), {}

    def before(_module: Any, _args: Any, hidden_pre: Any) -> None:
        latest["pre"] = hidden_pre

    def after(_module: Any, _args: Any, codes: Any) -> None:
        if torch.is_grad_enabled():
            death.update(latest.pop("pre"), codes)

    sae.hook_sae_acts_pre.register_forward_hook(before)
    sae.hook_sae_acts_post.register_forward_hook(after)
    return death


def _check(sae: Any) -> None:
    if hasattr(sae, "b_dec_out"):
        raise UserError("this is a transcoder: its b_dec stands for another place than the one that was diagnosed")
    if not getattr(sae.cfg, "apply_b_dec_to_input", False):
        raise UserError(
            "apply_b_dec_to_input is False, so b_dec does not center what the SAE reads; should be True in its config"
        )
    if sae.cfg.normalize_activations != "none":
        raise UserError(
            f"normalize_activations is '{sae.cfg.normalize_activations}', so the SAE does not read what was diagnosed; "
            "should be 'none'"
        )
    refuse_started(sae.b_dec)
