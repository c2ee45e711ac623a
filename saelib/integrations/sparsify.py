"""sparsify: starts its sparse coders from our center or whitening, and logs death by cause while they train."""

from typing import TYPE_CHECKING, Any, TypeVar

import torch

from saelib.errors import UserError
from saelib.integrations.death import DeathLog, Report, watch
from saelib.integrations.starting_point import assign, refuse_started, require, starting_point, write_start

if TYPE_CHECKING:
    from saelib.diagnosis.result import Diagnosis
    from saelib.preprocessing.transform import Preprocessing

T = TypeVar("T")


def start(sae: T, found: "Diagnosis | Preprocessing") -> T:
    """Starts a sparse coder of sparsify from the remedy that was found, before `trainer.fit()`.

    b_dec moves to the center. To whiten, with z = (x - center) M, the encoder becomes M W_enc and W_dec becomes
    W_dec M^-1, whose rows are scaled to norm 1 if `normalize_decoder` keeps them there (the default). That costs
    something: at the start, each latent's share of the reconstruction is wrong by its norm over the mean norm.

    At its first step, sparsify's trainer overwrites b_dec with the mean of the first batch. The coder puts the center
    back as it is called for the first time.

    Args:
        sae: A `SparseCoder`, such as `trainer.saes["h.6"]`, for the layer that was diagnosed.
        found: The result of `saelib.diagnose` or `saelib.fit_preprocessing`. If nothing needs to be done, nothing is.

    Returns:
        `sae`, changed in place.

    Raises:
        UserError: If the coder is a transcoder, was trained before, or has another width.
    """
    coder: Any = sae
    require(sae, "the coder", "a sparsify coder", "encoder", "W_dec", "b_dec", "cfg")
    point = starting_point(found, len(coder.b_dec))
    if point is None:
        return sae
    if coder.cfg.transcode:
        raise UserError(
            "this is a transcoder, which does not subtract b_dec from what it reads: no start can center it"
        )
    refuse_started(coder.b_dec)
    write_start(point, coder.encoder.weight.T, coder.W_dec, coder.b_dec, unit_decoder=coder.cfg.normalize_decoder)

    def center(module: Any, _args: Any) -> None:
        assign(module.b_dec, point.center)
        once.remove()

    once = coder.register_forward_pre_hook(center)
    return sae


def log_death(sae: Any, window: int = 100_000, report: Report | None = None) -> DeathLog:
    """Logs the latents that are dead, by cause, after each `window` training tokens.

    Args:
        sae: A `SparseCoder`, before or during its training.
        window: Tokens that are counted together.
        report: Called with each row (`wandb.log`, `print`); None: a line of the log.

    Returns:
        The log, whose `rows` grow as the coder trains.
    """
    require(sae, "the coder", "a sparsify coder", "encode", "encoder")
    death = DeathLog(window, report)
    watch(sae, "encode", _codes, death)
    return death


def _codes(encoded: Any) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.zeros_like(encoded.pre_acts).scatter(-1, encoded.top_indices, encoded.top_acts)
    return encoded.pre_acts, codes
