"""dictionary_learning: starts its trainers from our center or whitening, and logs death by cause while they train."""

from typing import TYPE_CHECKING, Any, TypeVar

import torch

from saelib.errors import UserError
from saelib.integrations.death import DeathLog, Report, watch
from saelib.integrations.starting_point import refuse_started, require, starting_point, write_start

if TYPE_CHECKING:
    from saelib.diagnosis.result import Diagnosis
    from saelib.preprocessing.transform import Preprocessing

T = TypeVar("T")
BIASES = ("b_dec", "bias", "decoder_bias")
"""Names of the decoder bias in AutoEncoderTopK and most others, AutoEncoder, GatedAutoEncoder."""


def start(trainer: T, found: "Diagnosis | Preprocessing") -> T:
    """Starts a trainer of dictionary_learning from the remedy that was found, before its first step.

    The decoder bias moves to the center. To whiten, with z = (x - center) M, the encoder becomes M W_enc and the
    decoder W_dec M^-1, whose vectors are scaled to norm 1, as the library keeps them. That costs something: at the
    start, each latent's share of the reconstruction is wrong by its norm over the mean norm.

    TopK, BatchTopK and Matryoshka trainers would overwrite the bias with the geometric median of the first batch. They
    no longer do: their first step is given the number 1 instead of 0.

    Args:
        trainer: A trainer whose `ae` subtracts its decoder bias from its input. `trainSAE` makes its trainers itself,
            so give it a function: `{"trainer": lambda **config: start(TopKTrainer(**config), found), ...}`.
        found: The result of `saelib.diagnose` or `saelib.fit_preprocessing`. If nothing needs to be done, nothing is.

    Returns:
        `trainer`, changed in place.

    Raises:
        UserError: If the dictionary does not center its input (JumpReluAutoEncoder, AutoEncoderNew), was trained
            before, or has another width.
    """
    ours: Any = trainer
    require(trainer, "the trainer", "a dictionary_learning trainer", "ae", "update")
    ae = ours.ae
    name = next((name for name in BIASES if hasattr(ae, name)), None)
    if name is None or getattr(ae, "apply_b_dec_to_input", True) is False:
        raise UserError(
            f"{type(ae).__name__} does not subtract its decoder bias from what it reads, so no start can center it; "
            "subtract found.center from the activations, or use another class"
        )
    bias = getattr(ae, name)
    point = starting_point(found, len(bias))
    if point is None:
        return trainer
    refuse_started(bias)
    linear = hasattr(ae, "encoder")
    W_enc, W_dec = (ae.encoder.weight.T, ae.decoder.weight.T) if linear else (ae.W_enc, ae.W_dec)
    write_start(point, W_enc, W_dec, bias, unit_decoder=True)
    update = ours.update
    ours.update = lambda step, *args, **options: update(max(step, 1), *args, **options)
    return trainer


def log_death(trainer: Any, window: int = 100_000, report: Report | None = None) -> DeathLog:
    """Logs the latents that are dead, by cause, after each `window` training tokens.

    Args:
        trainer: A trainer, before or during its training.
        window: Tokens that are counted together.
        report: Called with each row (`wandb.log`, `print`); None: a line of the log.

    Returns:
        The log, whose `rows` grow as the trainer steps.

    Raises:
        UserError: For a JumpReLU trainer, which computes its codes inside its loss.
    """
    require(trainer, "the trainer", "a dictionary_learning trainer", "ae", "update")
    if hasattr(trainer.ae, "apply_b_dec_to_input"):
        raise UserError("a JumpReluTrainer computes its codes inside its loss, where they cannot be logged")
    death = DeathLog(window, report)
    watch(trainer.ae, "encode", _codes, death)
    return death


def _codes(encoded: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`encode` returns the codes alone (ReLU: those that are positive fire), or first, with the ReLU's output last."""
    return (encoded[-1], encoded[0]) if isinstance(encoded, tuple) else (encoded, encoded)
